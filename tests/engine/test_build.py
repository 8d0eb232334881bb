"""From a job and tables to graphs and feeds: initial values, losses with weights and in the target's units, derivatives, estimates."""

import numpy as np
import pytest

from engine.core import FLOATS
from engine.data.encode import gather
from engine.data.table import Table
from engine.graph import interpret
from engine.train.job import Job
from engine.train.ready.build import build, check
from tests.engine.real_tables import real_table

RNG = np.random.default_rng(1)
ARRAYS = Table.from_columns({"x": RNG.normal(size=(40, 5)), "label": np.arange(40) % 3, "value": RNG.normal(size=40) * 7 + 3, "w": RNG.random(40)})
ROWS = Table.from_rows([{"a": float(a), "b": "pqr"[i % 3], "y": float(3 * a + 5)} for i, a in enumerate(RNG.normal(size=40).round(3))])


def job(table=ARRAYS, layers=None, **changes):
    raw = {
        "model": {"kind": "chain", "layers": layers or [{"kind": "dense", "units": 8, "activation": "tanh"}, {"kind": "dense", "units": "target"}]},
        "loss": "logit_cross_entropy",
        "optimiser": "adam",
        "dtype": "float64",
        "data": {"dataset": "ds", "inputs": ["x"], "target": "label"},
        **changes,
    }
    return Job.model_validate(raw), {"ds": table}


def number(target="value", loss="mse", table=ARRAYS, **changes):
    data = {"dataset": "ds", **({"inputs": ["x"]} if table is ARRAYS else {}), "target": target, **changes.pop("data", {})}
    return job(table, loss=loss, data=data, **changes)


def run(built, nodes, graph, rows, parameters=None):
    """Values of nodes of a step's graph, for these rows of the training part."""
    part = built.parts["train"]
    leaves = {name: (node.shape[1:], node.dtype) for name, node in graph.batch.items()}
    values = {graph.batch[name]: array for name, array in gather(part.feeds, rows, leaves).items()}
    values |= {node: (parameters or built.parameters)[path] for path, node in graph.parameters.items()}
    values |= {graph.key: np.array([0, 1])} if graph.key is not None else {}
    values |= {node: np.ones(()) for node in graph.counters.values()}
    return interpret.run(nodes, values)


def loss_of(built, rows=None, parameters=None):
    rows = built.parts["train"].rows if rows is None else rows
    graph = built.make_graph(len(rows), True)
    return float(run(built, [graph.loss], graph, rows, parameters)[0])


def measured(built, training=False):
    rows = built.parts["train"].rows
    graph = built.make_graph(len(rows), training)
    names = list(graph.sums)
    return built.measure(dict(zip(names, run(built, [graph.sums[n] for n in names], graph, rows), strict=True)))


def outputs(built):
    rows = built.parts["train"].rows
    graph = built.make_graph(len(rows), False)
    return run(built, [graph.outputs["output"]], graph, rows)[0]


def test_initial_values_are_functions_of_the_seed_and_the_path():
    one, same, other = build(*job()), build(*job()), build(*job(seed=1))
    assert list(one.parameters) == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"] == one.trained
    assert all(np.array_equal(one.parameters[p], same.parameters[p]) for p in one.parameters)
    assert not np.array_equal(one.parameters["layers.0.weight"], other.parameters["layers.0.weight"])
    assert one.parameters["layers.1.weight"].shape == (8, 3) and one.class_names == [0, 1, 2]


def test_the_gradients_are_those_of_the_loss():
    built = build(*job(data={"dataset": "ds", "inputs": ["x"], "target": "label", "weight": "w"}))
    rows = built.parts["train"].rows
    graph = built.make_graph(len(rows), True)
    assert list(graph.gradients) == built.trained
    for path, gradient in zip(built.trained, run(built, list(graph.gradients.values()), graph, rows), strict=True):
        place = tuple(n // 2 for n in built.parameters[path].shape)
        moved = []
        for step in (1e-6, -1e-6):
            changed = {**built.parameters, path: built.parameters[path].copy()}
            changed[path][place] += step
            moved.append(loss_of(built, parameters=changed))
        assert np.isclose(gradient[place], (moved[0] - moved[1]) / 2e-6, atol=1e-7)


def test_the_loss_of_a_batch_is_the_mean_weighted_by_samples_and_classes():
    plain = build(*job())
    logits, labels, w = outputs(plain), np.arange(40) % 3, np.asarray(ARRAYS.columns["w"].data)
    rows = np.log(np.exp(logits).sum(1)) - logits[np.arange(40), labels]
    assert np.isclose(loss_of(plain), rows.mean())
    weighted = build(*job(data={"dataset": "ds", "inputs": ["x"], "target": "label", "weight": "w"}))
    assert np.isclose(loss_of(weighted), (rows * w).sum() / w.sum())
    classes = build(*job(loss={"kind": "logit_cross_entropy", "class_weights": {"1": 5}}))
    each = np.where(labels == 1, 5.0, 1.0)
    assert np.isclose(loss_of(classes), (rows * each).sum() / each.sum())
    balanced = build(*job(loss={"kind": "logit_cross_entropy", "class_weights": "balanced"}))
    each = (40 / (3 * np.bincount(labels)))[labels]
    assert np.isclose(loss_of(balanced), (rows * each).sum() / each.sum())
    assert np.isclose(measured(weighted)["loss"], loss_of(weighted))
    assert np.isclose(measured(weighted)["accuracy"], (w * (logits.argmax(1) == labels)).sum() / w.sum())


@pytest.mark.parametrize("loss", ["mse", "mae", {"kind": "huber", "delta": 0.5}])
def test_a_tables_number_target_is_learnt_standardised_and_told_in_its_own_units(loss):
    built = build(*number("y", loss, ROWS))
    y = np.asarray(ROWS.columns["y"].data)
    assert list(measured(built)) == ["loss", "mae", "r2"]
    error = np.abs(outputs(built)[:, 0] - y)
    own = {"mse": error**2, "mae": error}.get(str(loss), np.where(error < 0.5, error**2 / 2, 0.5 * (error - 0.25)))
    assert np.isclose(measured(built)["loss"], own.mean()) and np.isclose(measured(built)["mae"], error.mean())
    scale = {"mse": y.var(), "mae": y.std()}.get(str(loss), y.var())
    assert np.isclose(loss_of(built), own.mean() / scale)


def test_an_array_as_target_is_learnt_as_it_is():
    built = build(*number())
    assert np.isclose(loss_of(built), measured(built)["loss"])


def test_columns_that_are_embedded_have_trained_vectors_beside_the_models_parameters():
    built = build(*number("y", "mse", ROWS, data={"preprocess": {"b": {"kind": "embedding", "units": 2}}}))
    assert next(iter(built.parameters)) == "columns.b.weight" and built.parameters["columns.b.weight"].shape == (4, 2)
    assert built.parameters["layers.0.weight"].shape == (3, 8) and "columns.b.weight" in built.trained


def test_an_embedding_layer_takes_class_numbers_and_infers_its_vocabulary():
    layers = [{"kind": "embedding", "units": 4}, {"kind": "flatten"}, {"kind": "dense", "units": 1}]
    built = build(*number("y", "mse", ROWS, layers=layers, data={"inputs": ["b"]}))
    assert built.parameters["layers.0.weight"].shape == (4, 4) and built.make_graph(2, False).batch["x"].dtype == "int32"


def test_only_trainable_paths_are_trained():
    built = build(*job(trainable=["layers.*", "!layers.0.bias"]))
    assert built.trained == ["layers.0.weight", "layers.1.weight", "layers.1.bias"]


def test_inputs_may_be_their_own_target():
    built = build(*number("@inputs", "mse"))
    assert built.parameters["layers.1.weight"].shape == (8, 5) and "y" not in built.make_graph(2, True).batch
    assert np.isclose(loss_of(built), np.mean((outputs(built) - ARRAYS.columns["x"].data) ** 2))


def test_a_formula_sees_predictions_one_hot_targets_parameters_and_the_step():
    table = Table.from_rows([{"a": i * 0.1, "c": "uv"[i % 2]} for i in range(10)])
    made = {
        "kind": "expression",
        "formula": "mean(sum((y_hat - y) ** 2, axis=1)) + k * sum_squares('layers.*.weight') + 0 * step",
        "constants": {"k": 0.5},
    }
    built = build(*job(table, loss=made, layers=[{"kind": "dense", "units": 2}], data={"dataset": "ds", "target": "c"}))
    expected = ((outputs(built) - np.eye(2)[np.arange(10) % 2]) ** 2).sum(1).mean() + 0.5 * (built.parameters["layers.0.weight"] ** 2).sum()
    assert np.isclose(loss_of(built), expected) and list(built.make_graph(2, True).counters) == ["step", "epoch"]


@pytest.mark.parametrize("formula", ["mean(weight * (y_hat - y) ** 2)", "mean(weight * sum((y_hat - y) ** 2, axis=1))"])
def test_a_formula_has_weights_beside_outputs_and_beside_rows(formula: str):
    table = Table.from_rows([{"a": i * 0.1, "t": i * 0.3, "w": 1.0 + i % 3} for i in range(10)])
    made = job(table, loss={"kind": "expression", "formula": formula}, layers=[{"kind": "dense", "units": 1}],
               data={"dataset": "ds", "target": "t", "weight": "w"})
    built = build(*made)
    errors = (outputs(built)[:, 0] - np.arange(10) * 0.3) ** 2
    assert np.isclose(loss_of(built), np.mean((1 + np.arange(10) % 3) * errors))


def test_several_outputs_have_losses_and_metrics_of_their_own():
    model = {
        "kind": "parallel",
        "layers": {"price": {"kind": "dense", "units": "target"}, "label": {"kind": "dense", "units": "target"}},
        "connection": "separate",
    }
    raw = {
        "model": model,
        "loss": {"kind": "weighted", "losses": {"price": "mse", "label": "logit_cross_entropy"}, "weights": {"price": 0.25}},
        "optimiser": "adam",
        "dtype": "float64",
        "data": {"dataset": "ds", "inputs": ["x"], "target": {"price": "value", "label": "label"}},
        "metrics": {"label": ["accuracy"]},
    }
    built = build(Job.model_validate(raw), {"ds": ARRAYS})
    assert built.parameters["layers.price.weight"].shape == (5, 1) and built.parameters["layers.label.weight"].shape == (5, 3)
    found = measured(built)
    assert set(found) == {"loss", "price_loss", "price_mae", "price_r2", "label_loss", "label_accuracy"}
    assert np.isclose(found["loss"], 0.25 * found["price_loss"] + found["label_loss"]) and np.isclose(found["loss"], loss_of(built))


def test_balanced_sampling_draws_from_as_many_rows_of_each_class():
    table = Table.from_columns({"x": [[1.0]] * 10, "label": [0] * 8 + [1] * 2})
    built = build(*job(table, data={"dataset": "ds", "target": "label", "sampling": "balanced", "batch_size": 4}))
    assert built.mode == "with_replacement" and built.steps_per_epoch == 3
    assert np.bincount(np.array([0] * 8 + [1] * 2)[built.index]).tolist() == [8, 8]


@pytest.mark.parametrize(
    "changes, steps", [({}, 4), ({"drop_last": True}, 3), ({"repeat": 2}, 7), ({"steps_per_epoch": 9}, 9), ({"batch_size": "full"}, 1)]
)
def test_an_epoch_has_the_steps_that_the_data_says(changes, steps):
    assert check(*job(data={"dataset": "ds", "inputs": ["x"], "target": "label", "batch_size": 12, **changes})).steps_per_epoch == steps


def test_test_mode_has_outputs_and_losses_of_rows_and_no_gradients():
    graph = build(*job()).make_graph(7, False)
    assert graph.outputs["output"].shape == (7, 3) and graph.per_row["loss"].shape == (7,) and not graph.gradients
    assert all(node.dtype in FLOATS for node in graph.sums.values())


def test_titanic_is_checked_as_it_comes():
    table = real_table("titanic.csv")
    raw = {
        "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 16, "activation": "relu"}, {"kind": "dense", "units": 1}]},
        "loss": "logit_binary_cross_entropy",
        "optimiser": "adam",
        "data": {"dataset": "ds", "target": "survived", "inputs": ["*", "!alive"], "validation": {"fraction": 0.2, "stratify": True}},
    }
    summary = check(Job.model_validate(raw), {"ds": table})
    assert summary.class_names == [0, 1] and summary.rows["train"] + summary.rows["valid"] == 891
    assert summary.parameters == summary.layers[0]["parameters"] + 17 and 0 < summary.checkpoint_bytes < summary.memory_bytes + 10**6
