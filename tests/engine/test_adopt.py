"""Going on from another job's checkpoint: with the same bits as one longer job, or from its parameters alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.data.fit import Notes
from engine.data.table import Table
from engine.train import Job, start
from engine.train.lineage import Initial
from engine.train.ready.build import check
from engine.train.ready.inherit import carry, check_initial, fitting, header_of, initial_arrays, source_of
from engine.train.run import loop
from engine.train.run.adopt import Carried
from engine.train.run.checkpoint import unpack
from engine.train.run.live import Adjustment
from engine.train.run.loop import Run

RULES: dict[str, Any] = {
    "adam": [{"kind": "clip_global_norm", "max_norm": 1.0},
             {"kind": "adam", "learning_rate": 0.02, "schedule": {"kind": "exp", "factor": 0.9, "per": "epoch"}}],
    "momentum": {"kind": "momentum", "learning_rate": 0.05},
    "ema": [{"kind": "adamw", "learning_rate": 0.02}, {"kind": "ema", "decay": 0.9}],
}
LAYERS = [{"kind": "dense", "units": 12, "activation": "tanh"}, {"kind": "batch_norm"}, {"kind": "dropout", "rate": 0.3},
          {"kind": "dense", "units": "target"}]


def tables(seed: int = 0, columns: int = 5) -> dict[str, Table]:
    x = np.random.default_rng(seed).normal(size=(90, columns))
    return {"ds_1": Table.from_columns({"x": x.tolist(), "y": (np.abs(x).sum(1) % 3).astype(int).tolist()})}


def spec(**more: Any) -> dict[str, Any]:
    data = {"dataset": "ds_1", "target": "y", "batch_size": 16, "validation": {"fraction": 0.2}}
    return {"model": {"kind": "chain", "layers": LAYERS}, "loss": "logit_cross_entropy", "optimiser": RULES["adam"], "data": data, "epochs": 4,
            "callbacks": [{"kind": "early_stopping", "patience": 4}, {"kind": "reduce_on_plateau", "patience": 1}], **more}


def finished(run: Run) -> bytes:
    for _ in run.events():
        pass
    return run.checkpoint()


def carried(new: dict[str, Any], old: dict[str, Any], checkpoint: bytes, folder: Path) -> tuple[Carried, Notes]:
    file, notes, job = folder / "x.safetensors", Notes(), Job.model_validate(new)
    file.write_bytes(checkpoint)
    return carry(job, check(job, tables()), Job.model_validate(old), header_of(file), notes), notes


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("done", [2, 4])
def test_more_epochs_give_the_bytes_of_one_longer_job(rule: str, done: int, tmp_path: Path) -> None:
    short, long = spec(epochs=done, optimiser=RULES[rule]), spec(epochs=7, optimiser=RULES[rule])
    whole = finished(start(Job.model_validate(long), tables()))
    half = finished(start(Job.model_validate(short), tables()))
    kept, notes = carried(long, short, half, tmp_path)
    assert kept == Carried((0, 1)) and not notes.problems and not notes.warnings
    assert finished(start(Job.model_validate(long), tables(), checkpoint=half, carried=kept)) == whole


def test_also_when_live_changes_and_callbacks_have_made_it_another_run(tmp_path: Path) -> None:
    callbacks = [{"kind": "freeze", "paths": ["layers.0.*"], "at": {"epoch": 2}}, {"kind": "thaw", "paths": ["layers.0.*"], "at": {"epoch": 5}}]
    short, long = spec(epochs=9, callbacks=callbacks), spec(epochs=7, callbacks=callbacks)
    live = [Adjustment(8, {"learning_rate": 0.003}), Adjustment(9, {"epochs": 3})]
    half = finished(start(Job.model_validate(short), tables(), adjustments=live))
    kept, notes = carried(long, short, half, tmp_path)
    assert not notes.problems and header_of(tmp_path / "x.safetensors").meta["regime"].keys() == {"optimiser", "epochs", "trained"}
    whole = finished(start(Job.model_validate(long), tables(), adjustments=live[:1]))
    fork = unpack(finished(start(Job.model_validate(long), tables(), checkpoint=half, carried=kept)))
    assert fork.meta == {**unpack(whole).meta, "changes": 0}        # it has no changes of its own
    assert {name: array.tobytes() for name, array in fork.arrays.items()} == {name: array.tobytes() for name, array in unpack(whole).arrays.items()}


def test_also_from_within_an_epoch_and_with_a_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"callbacks": [{"kind": "on_nonfinite", "action": "rollback"}], "data": {**spec()["data"], "batch_size": 2}}
    short, long = spec(epochs=3, **more), spec(epochs=5, **more)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    run = start(Job.model_validate(short), tables())
    half = next(event.payload for event in run.events() if event.type == "checkpoint" and run.epoch == 1 and run.position)
    monkeypatch.undo()
    assert half is not None
    kept, notes = carried(long, short, half, tmp_path)
    assert not notes.problems and header_of(tmp_path / "x.safetensors").within
    assert finished(start(Job.model_validate(long), tables(), checkpoint=half, carried=kept)) == finished(start(Job.model_validate(long), tables()))
    _, notes = carried(spec(epochs=5, callbacks=[]), short, half, tmp_path)
    assert "/callbacks" in [found.pointer for found in notes.problems]


def test_changes_keep_what_they_leave_alone(tmp_path: Path) -> None:
    old, data = spec(epochs=2), spec()["data"]
    half = finished(start(Job.model_validate(old), tables()))
    faster = spec(epochs=3, optimiser=[RULES["adam"][0], {**RULES["adam"][1], "learning_rate": 0.001}], seed=3,
                  data={**data, "batch_size": 8}, metrics=["f1"],
                  callbacks=[{"kind": "early_stopping", "patience": 4}, {"kind": "step_limit", "steps": 99}])
    kept, notes = carried({**faster, "seed": 0}, old, half, tmp_path)
    assert kept == Carried((0, None)) and not notes.problems
    run = start(Job.model_validate({**faster, "seed": 0}), tables(), checkpoint=half, carried=kept)
    assert run.epoch == 2 and run.learning_rate == pytest.approx(0.001 * 0.9 ** 2) and run.best.epoch and run.ending is None
    assert run.runners[0].state() == start(Job.model_validate(old), tables(), checkpoint=half).runners[0].state()
    finished(run)
    kept, notes = carried(faster, old, half, tmp_path)
    assert kept == Carried((None, None), comparable=False) and [warning.code for warning in notes.warnings] == ["not_carried"]
    run = start(Job.model_validate(faster), tables(), checkpoint=half, carried=kept)
    assert run.best.epoch is None and int(run.session.whole[0]) == 3
    finished(run)


@pytest.mark.parametrize(("changes", "pointer"), [
    ({"optimiser": "adam"}, "/optimiser"), ({"optimiser": [RULES["adam"][0], "rmsprop"]}, "/optimiser"), ({"dtype": "float64"}, "/dtype"),
    ({"trainable": ["layers.3.*"]}, "/trainable"), ({"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 9}, *LAYERS[1:]]}}, "/model"),
])
def test_what_cannot_be_carried_is_told(changes: dict[str, Any], pointer: str, tmp_path: Path) -> None:
    half = finished(start(Job.model_validate(spec(epochs=1)), tables()))
    _, notes = carried(spec(**changes), spec(), half, tmp_path)
    assert [(found.pointer, found.code, found.suggestion) for found in notes.problems] == [(pointer, "not_carried", '"state": "reset"')]


def test_parameters_to_start_from_are_those_that_the_patterns_choose(tmp_path: Path) -> None:
    data = finished(start(Job.model_validate(spec(epochs=1)), tables()))
    (file := tmp_path / "x.safetensors").write_bytes(data)
    other = Job.model_validate(spec(model={"kind": "chain", "layers": [*LAYERS[:3], {"kind": "dense", "units": 8}, {"kind": "dense", "units": 3}]}))
    summary, source = check(other, tables()), source_of(header_of(file), True, "the checkpoint")

    def problems(*paths: str) -> list[tuple[str, str, str | None]]:
        notes = Notes()
        check_initial(Initial(job="job_1", paths=list(paths) or None), summary, source, notes)
        return [(found.pointer, found.code, found.suggestion) for found in notes.problems]

    assert problems("layers.0.*", "layers.1") == []
    assert ("/initial", "shape_mismatch", None) in problems() and ("/initial", "unknown_path", "layers.3.weight") in problems()
    assert problems("layers.0.wieght") == [("/initial/paths/0", "unknown_path", "layers.0.weight")]
    assert fitting(summary, source) == [path for path in (*summary.parameter_shapes, *summary.buffer_shapes) if path[7] in "01"]
    arrays = initial_arrays(data, True, ["layers.0.*", "layers.1"])
    assert sorted(arrays) == sorted(fitting(summary, source))
    run = start(other, tables(), initial=arrays)
    assert all((run.session.parameters | run.session.buffers)[path].tobytes() == array.tobytes() for path, array in arrays.items())
    again = run.checkpoint()
    assert finished(run) == finished(start(other, tables(), checkpoint=again))
