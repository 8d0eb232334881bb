"""Training, validation and test rows: disjoint, a function of the seed, with the shares that were asked for."""

import numpy as np
import pytest

from engine.data import splits
from engine.data.fit import Notes
from engine.data.table import Table
from engine.data.target import Goal
from engine.errors import SpecError
from engine.train.job_data import Data
from engine.train.rows.prepare import prepare

TABLE = Table.from_rows([{"a": i, "g": f"g{i // 7}", "y": "abc"[(i % 10 > 4) + (i % 10 > 7)]} for i in range(200)])


def parts(seed=0, table=TABLE, **data):
    found = prepare(
        Data.model_validate({"dataset": "ds", "target": "y", **data}), {"ds": table}, [Goal(classes=True)], (), seed, "float32", Notes()
    )
    return {name: part.rows for name, part in found.parts.items()}


def problems(table=TABLE, **data):
    with pytest.raises(SpecError) as error:
        parts(table=table, **data)
    return [(p.pointer, p.code) for p in error.value.problems]


def test_without_a_split_every_row_trains():
    assert parts()["train"].tolist() == list(range(200))


@pytest.mark.parametrize("how", [{}, {"by": "last"}, {"by": "group", "group": "g"}, {"stratify": True}, {"stratify": "g"}])
def test_the_parts_are_disjoint_and_cover_every_row(how):
    found = parts(validation={"fraction": 0.25, **how}, test={"fraction": 0.1})
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(200))
    assert len(found["test"]) == 20 and abs(len(found["valid"]) - 50) <= 4


def test_a_random_split_depends_on_the_seed_alone():
    split = {"validation": {"fraction": 0.2}}
    assert parts(1, **split)["valid"].tolist() == parts(1, **split)["valid"].tolist() != parts(2, **split)["valid"].tolist()


def test_the_last_rows_are_the_last():
    assert parts(validation={"fraction": 0.1, "by": "last"})["valid"].tolist() == list(range(180, 200))


def test_a_stratified_part_has_each_class_in_its_share():
    labels = np.array(["abc".index(TABLE.columns["y"].python(i)) for i in range(200)])
    valid = parts(validation={"fraction": 0.2, "stratify": True})["valid"]
    assert np.bincount(labels[valid]).tolist() == [20, 12, 8]


def test_groups_stay_together():
    groups = np.arange(200) // 7
    found = parts(validation={"fraction": 0.3, "by": "group", "group": "g"})
    assert not set(groups[found["valid"]]) & set(groups[found["train"]])


def test_an_empty_part_is_refused():
    few = Table.from_rows([{"a": i, "y": i % 2} for i in range(4)])
    assert problems(few, validation={"fraction": 0.1}) == [("/data/validation", "empty_split")]
    assert ("/data/dataset", "empty_split") in problems(few, validation={"fraction": 0.99})


def test_another_data_set_must_be_there_and_have_the_columns():
    assert problems(validation={"dataset": "ds_other"}) == [("/data/validation/dataset", "unknown_dataset")]
    assert problems(validation={"fraction": 0.2, "by": "group", "group": "gg"}) == [("/data/validation/group", "unknown_column")]
    other = Table.from_rows([{"b": 1, "y": "a"}])
    with pytest.raises(SpecError) as error:
        prepare(
            Data.model_validate({"dataset": "ds", "target": "y", "validation": {"dataset": "two"}}),
            {"ds": TABLE, "two": other},
            [Goal(classes=True)],
            (),
            0,
            "float32",
            Notes(),
        )
    assert {(p.pointer, p.code) for p in error.value.problems} == {("/data/validation/dataset", "missing_column")}


def test_stratifying_needs_classes():
    assert problems(Table.from_rows([{"a": i * 0.5, "y": i % 2} for i in range(2500)]), validation={"fraction": 0.2, "stratify": "a"}) == [
        ("/data/validation/stratify", "continuous_target")
    ]


def test_a_permutation_has_every_row_once_and_differs_by_purpose():
    one, two = splits.shuffled(1000, 5, "valid"), splits.shuffled(1000, 5, "test")
    assert sorted(one.tolist()) == list(range(1000)) and one.tolist() != two.tolist()
