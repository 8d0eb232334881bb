"""What a wrong description is answered with: where, what kind of mistake, and the nearest right name."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from engine import losses as losses_of_the_engine
from engine import nn, optim
from engine.catalogue import FAMILIES, catalogue
from engine.errors import SpecError
from engine.nn import AnyLayer, Chain, Dense
from engine.nn.loss import losses
from engine.nn.metrics import metrics
from engine.optim import Adam, Optimiser
from engine.spec import problems
from engine.train import Job

AnyLoss, AnyMetric = losses.union(), metrics.union()


class Description(BaseModel):
    model: AnyLayer = None
    loss: AnyLoss = None
    metrics: list[AnyMetric] = []
    optimiser: Optimiser = None


DENSE = {"kind": "dense", "units": 3}


def layer(**fields):
    return {"model": {"kind": "chain", "layers": [DENSE, {**DENSE, **fields}]}}


def group(**fields):
    return {"optimiser": {"kind": "adam", "groups": [{"paths": ["*"], **fields}]}}


AT = "/model/layers/1"


@pytest.mark.parametrize("raw, pointer, code, suggestion", [
    (layer(kind="dens"), f"{AT}/kind", "unknown_kind", "dense"),
    ({"model": {"kind": "chain", "layers": ["flaten"]}}, "/model/layers/0", "unknown_kind", "flatten"),
    ({"model": {"kind": "chain", "layers": [{"units": 3}]}}, "/model/layers/0", "missing_kind", None),
    (layer(kind="linear", unit=3), f"{AT}/unit", "unknown_field", "units"),
    (layer(act="relu"), f"{AT}/act", "unknown_field", "activation"),
    (layer(units=0), f"{AT}/units", "out_of_range", None),
    (layer(units="many"), f"{AT}/units", "invalid_value", None),
    (layer(units="3"), f"{AT}/units", "invalid_value", None),
    (layer(activation="relux"), f"{AT}/activation", "unknown_kind", "relu"),
    (layer(activation={"kind": "leaky_relu", "slop": 1}), f"{AT}/activation", "unknown_field", "slope"),
    (layer(init="glorot_unifrom"), f"{AT}/init", "unknown_kind", "glorot_uniform"),
    (layer(init="kalman_normal"), f"{AT}/init", "unknown_kind", "kaiming_normal"),
    (layer(init={"weight": {"kind": "constnt"}}), f"{AT}/init/weight/kind", "unknown_kind", "constant"),
    (layer(init={"kind": "constant", "valu": 1}), f"{AT}/init/valu", "unknown_field", "value"),
    (layer(name="a.b"), f"{AT}/name", "invalid_value", None),
    ({"model": {"kind": "parallel", "layers": {"a": {"kind": "dense"}}}}, "/model/layers/a/units", "missing_field", None),
    ({"model": {"kind": "parallel", "layers": [DENSE], "connection": "sum"}}, "/model/connection", "invalid_value", None),
    ({"model": {"kind": "skip_connection", "layer": {"kind": "chain", "layers": [{"kind": "dense"}]}}}, "/model/layer/layers/0/units",
     "missing_field", None),
    ({"loss": "crossentropi"}, "/loss", "unknown_kind", "cross_entropy"),
    ({"loss": {"kind": "huber", "delta": 0}}, "/loss/delta", "out_of_range", None),
    ({"loss": {"kind": "huber", "delta": float("nan")}}, "/loss/delta", "not_finite", None),
    ({"loss": {"kind": "mse", "from_logits": True}}, "/loss/from_logits", "unknown_field", "logit_cross_entropy"),
    ({"metrics": ["mae", "accurracy"]}, "/metrics/1", "unknown_kind", "accuracy"),
    ({"metrics": [{"kind": "top_k_accuracy", "k": 0}]}, "/metrics/0/k", "out_of_range", None),
    ({"optimiser": "admw"}, "/optimiser", "unknown_kind", "adamw"),
    ({"optimiser": {"kind": "adam", "lr": 0.1}}, "/optimiser/lr", "unknown_field", "learning_rate"),
    ({"optimiser": {"kind": "adam", "learning_rate": "0.1"}}, "/optimiser/learning_rate", "invalid_value", None),
    ({"optimiser": [{"kind": "clip_norm", "max_nrm": 1}, "adam"]}, "/optimiser/0/max_nrm", "unknown_field", "max_norm"),
    ({"optimiser": ["clip_norm"]}, "/optimiser", "missing_rule", None),
    ({"optimiser": "clip_norm"}, "/optimiser", "missing_rule", None),
    ({"optimiser": {"kind": "adam", "schedule": "expo"}}, "/optimiser/schedule", "unknown_kind", "exp"),
    ({"optimiser": {"kind": "adam", "schedule": {"kind": "loop", "schedule": {"kind": "exp", "factor": -1}, "period": 3}}},
     "/optimiser/schedule/schedule/factor", "out_of_range", None),
    (group(learnig_rate=1), "/optimiser/groups/0/learnig_rate", "unknown_field", "learning_rate"),
    (group(learning_rate=-1), "/optimiser/groups/0/learning_rate", "invalid_value", None),
    (group(paths="*"), "/optimiser/groups/0/paths", "invalid_value", None),
])
def test_a_mistake_is_told_by_place_and_kind(raw, pointer, code, suggestion):
    with pytest.raises(ValidationError) as caught:
        Description.model_validate(raw)
    found = problems(caught.value, raw)
    assert [(p.pointer, p.code, p.suggestion) for p in found] == [(pointer, code, suggestion)]


def test_all_mistakes_are_told_at_once():
    raw = {**layer(kind="dens"), "loss": "mze", "optimiser": "adm"}
    with pytest.raises(ValidationError) as caught:
        Description.model_validate(raw)
    assert [p.pointer for p in problems(caught.value, raw)] == [f"{AT}/kind", "/loss", "/optimiser"]


@pytest.mark.parametrize(("make", "told"), [
    (lambda: Dense(-1), "/units: input should be greater than or equal to 1, found -1"),
    (lambda: Dense(), "/units: the field 'units' is required"),
    (lambda: Dense(4, activaton="relu"), "/activaton: there is no field 'activaton' here (did you mean 'activation'?)"),
    (lambda: Dense(4, "rellu"), "/activation: no activation is called 'rellu', found 'rellu' (did you mean 'relu'?)"),
    (lambda: Adam(lr=0.1), "/lr: there is no field 'lr' here (did you mean 'learning_rate'?)"),
    (lambda: Adam("x", beta1=2), "/learning_rate: input should be a valid number, found 'x'; /beta1: input should be less than 1, found 2"),
    (lambda: Chain(Dense(1, name="a"), Dense(1, name="a")), "called 'a'"),
    (lambda: Chain([{"kind": "dense", "units": -3}]), "/layers/0/units: input should be greater than or equal to 1, found -3"),
    (lambda: Adam(schedule="expo"), "/schedule: no schedule is called 'expo' (did you mean 'exp'?)")])
def test_a_wrong_call_of_a_constructor_is_told_like_a_wrong_description(make, told):
    with pytest.raises(SpecError) as caught:
        make()
    assert told in str(caught.value) and "pydantic" not in str(caught.value)


def test_a_description_and_a_constructor_are_the_same():
    raw = {"kind": "sequential", "layers": [{"kind": "linear", "units": 4, "activation": "silu"}, {"kind": "dense", "units": "target"}]}
    read = Description.model_validate({"model": raw}).model
    assert read == Chain(Dense(4, "swish"), Dense("target")) == Chain([Dense(4, activation="swish"), Dense(units="target")])
    assert read.model_dump()["layers"][0] == {"name": None, "units": 4, "activation": "swish", "bias": True,
                                              "init": {"kind": "glorot_uniform", "gain": 1.0}, "kind": "dense"}
    described = Description.model_validate({"optimiser": ["clip_norm", {"kind": "adam", "learning_rate": 1}]})
    assert described.model_dump(exclude_unset=True)["optimiser"][1]["learning_rate"] == 1.0 and described.optimiser.rule == Adam(1.0)


def test_an_optimiser_is_the_same_after_json():
    raw = {"optimiser": [{"kind": "weight_decay", "rate": 0.1}, {"kind": "sgd", "schedule": {"kind": "warmup", "then": "cosine_anneal"}}]}
    first = Description.model_validate(raw)
    again = Description.model_validate_json(first.model_dump_json(exclude_unset=True))
    assert again.optimiser == first.optimiser and again.optimiser.rule.factor(1) == first.optimiser.rule.factor(1) == 0.1


@pytest.mark.parametrize("group_name", FAMILIES)
def test_every_member_has_a_sentence_a_formula_and_its_own_names(group_name):
    seen = {}
    for cls in FAMILIES[group_name]:
        assert cls.sentence().endswith(".") and cls.__doc__, cls
        assert cls.equation or "formula" in cls.model_fields, f"{cls.__name__} has no equation"
        for name in (cls.kind_name(), *cls.aliases):
            assert seen.setdefault(name, cls) is cls, f"{name} stands for two"
        assert all(n == "kind" or cls.model_fields[n].default is not None or n for n in cls.model_fields)


def test_the_catalogue_tells_everything_as_json():
    found = json.loads(json.dumps(catalogue()))
    assert set(found) >= {"layers", "losses", "optimisers", "transforms", "schedules", "metrics", "activations", "initialisers", "ops"}
    for group_name, entries in found.items():
        assert entries, group_name
        for entry in entries:
            assert set(entry) == {"kind", "aliases", "description", "formula", "schema"} and entry["description"], entry
            assert entry["schema"]["type"] == "object" and "$ref" not in json.dumps(entry["schema"])
    dense = next(e for e in found["layers"] if e["kind"] == "dense")
    assert dense["schema"]["required"] == ["units"] and "linear" in dense["aliases"]
    assert dense["schema"]["properties"]["units"]["oneOf"] == [{"minimum": 1, "type": "integer"}, {"const": "target", "type": "string"}]
    leaky = next(e for e in found["activations"] if e["kind"] == "leaky_relu")
    assert leaky["schema"]["properties"] == {"slope": {"type": "number", "default": 0.01}}


def test_what_is_no_layer_is_named_where_it_stands():
    for model in (lambda: Chain(Dense(3), abs), lambda: Chain([Dense(3), abs])):
        with pytest.raises(SpecError, match=r"^/layers/1: this is no layer: one is an object with a 'kind'"):
            model()


@pytest.mark.parametrize(("module", "name", "meant"), [
    (nn, "Linear", "Dense"), (nn, "Sequential", "Chain"), (nn, "Conv2d", "Conv"), (nn, "Embeding", "Embedding"), (optim, "SGD", "Descent"),
    (optim, "Adagrad", "AdaGrad"), (losses_of_the_engine, "CrossEntropyLoss", "logit_cross_entropy"),
    (losses_of_the_engine, "logitcrossentropy", "logit_cross_entropy")])
def test_at_a_prompt_names_of_other_libraries_are_answered_with_those_of_this_one(module, name, meant):
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}' \(did you mean {meant}\?\)$"):
        getattr(module, name)
    assert hasattr(module, meant) and not hasattr(module, "nothing_of_the_kind")


def test_a_mistyped_field_of_a_job_is_answered_with_one_of_its_own():
    raw = {"modle": DENSE, "opimiser": "adam", "metric": []}
    with pytest.raises(ValidationError) as refused:
        Job.model_validate(raw)
    told = {problem.pointer: problem.suggestion for problem in problems(refused.value, raw)}
    assert {"/modle": "model", "/opimiser": "optimiser", "/metric": "metrics"}.items() <= told.items()


def test_a_container_at_the_top_of_a_script_is_refused_like_any_other_spec():
    script = "from engine import nn\nfrom engine.errors import SpecError\ntry: nn.Chain(nn.Dense(2), layer=3)\nexcept SpecError as e: print(e)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True).stdout
    assert said == "/layer: there is no field 'layer' here (did you mean 'layers'?)\n"


def test_layers_in_order_are_taken_in_every_form():
    assert Chain({"kind": "dense", "units": 3}, "flatten", Dense(2)) == Chain([Dense(3), nn.Flatten(), Dense(2)])
    assert nn.Parallel({"kind": "dense", "units": 3}, connection="max") == nn.Parallel([Dense(3)], "max")
    assert nn.Parallel({"a": DENSE}, "max") == nn.Parallel({"a": Dense(3)}, "max")


def test_numbers_of_numpy_are_numbers():
    assert Dense(np.int64(3)) == Dense(3) and nn.Conv(2, (np.int32(3), 3)) == nn.Conv(2, [3, 3]) and Adam(np.float64(0.5)) == Adam(0.5)
    with pytest.raises(SpecError, match="/units: input should be greater than or equal to 1, found 0"):
        Dense(np.int64(0))
