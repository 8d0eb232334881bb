"""The first minute at a prompt of somebody who comes from PyTorch, Keras, Flux or JAX: each mistake is told with what was found and what to write."""

# pyright: basic, reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false

import copy
import pickle

import numpy as np
import pytest

from engine import (
    DataLoader,
    adjust,
    data,
    destructure,
    freeze,
    gradient,
    losses,
    nn,
    optim,
    output_size,
    params,
    setup,
    train,
    train_step,
    trainables,
)
from engine import update as move
from engine.errors import TrainyardError

X, Y, NAMES = np.ones((8, 3), "float32"), np.ones((8, 1), "float32"), np.array(list("abcabcab"))


def model(units=1):
    return nn.Chain(nn.Dense(4, "relu"), nn.Dense(units)).build(input_shape=(3,), seed=0)


def loss(m, x, y):
    return losses.mse(m(x), y)


def trained(data, f=loss, state=None, **more):
    made = model()
    train(f, made, data, setup(optim.Descent(), made) if state is None else state, **more)


def batches(y=Y):
    return DataLoader((X, y), batch_size=4)


@pytest.mark.parametrize(("do", "told"), [
    # what train is given
    (lambda: trained((X, Y)), "loss takes (m, x, y), and train calls it as f(model, *item) for each item of the data, "
                              "here as (model, an array [8, 3]). An item of several arrays is a tuple: "
                              "give DataLoader((x, y), batch_size=32), or [(x, y)] for one batch of all rows"),
    (lambda: trained(X), "here as (model, an array [3])"),
    (lambda: trained(DataLoader(X)), "here as (model, an array [1, 3])"),
    (lambda: train_step(loss, model(), [X, Y], optim.Descent()), "here as (model, a list). An item of several arrays is a tuple"),
    (lambda: trained(batches(), lambda m, xy: loss(m, *xy)), "the loss takes (m, xy), and train calls it as f(model, *item) for each item "
     "of the data, here as (model, an array [4, 3], an array [4, 1]). Give it a parameter for each, as in lambda m, x, y: losses.mse(m(x), y)"),
    (lambda: trained(batches(), losses.mse), "mse takes (y_hat, y, agg, weight, options), and"),
    (lambda: train(lambda x: 0.0, params(model()), batches(), optim.Descent()), "the loss takes (x), and train calls it as f(*item)"),
    (lambda: trained({"x": X, "y": Y}), "takes its data third, batches to go through one by one, found a dict: write train(lambda m, x, y:"),
    (lambda: trained(None), "found None: write"),
    (lambda: train(model(), loss, batches(), optim.Descent()), "takes the loss first, a function of the model and of an item of data, found a Model"),
    (lambda: trained(batches(), "mse"), "found 'mse': write"),
    (lambda: trained(batches(), losses.mse(X, X)), "found 0.0: write"),
    (lambda: trained(batches(), nn.Dense(1)), "found a Dense: write"),
    (lambda: trained(batches(), epochs="3"), "epochs is a whole number from 0, found '3'"),
    (lambda: trained(batches(), epochs=-1), "found -1"),
    (lambda: trained(batches(), state=optim.Adam), "found the class Adam, not one made with Adam(...): write state = setup(optim.Adam(), model)"),
    (lambda: train(loss, nn.Dense(1), batches(), optim.Descent()), "nothing to train in a Dense: a layer has no arrays yet; make a model of it with"),
    (lambda: trained(batches(NAMES)), "texts that name classes become class numbers with np.unique(y, return_inverse=True)[1]"),
    (lambda: trained(batches(np.ones((8, 5)))), "predictions are [4, 1], targets [4, 5]; the model's last layer would need units=5"),
    # layers
    (lambda: nn.Dense(4, 1), "/activation: an activation is a name, such as \"relu\", or an object with a 'kind', found 1; the size of the input is "
                             "inferred: write Dense(1)"),
    (lambda: nn.Dense(4, 1, "relu"), "write Dense(1, 'relu')"),
    (lambda: nn.LSTM(10, 20), "the size of the input is inferred: write LSTM(20)"),
    (lambda: nn.Dense(4, np.tanh), "found the function tanh (did you mean 'tanh'?)"),
    (lambda: nn.Dense(in_features=3, units=4), "there is no field 'in_features' here: sizes of inputs are inferred"),
    (lambda: nn.Conv(out_channels=3, kernel_size=3), "(did you mean 'filters'?)"),
    (lambda: nn.BatchNorm(4), "BatchNorm takes no positional arguments, found 1; the number of features is inferred"),
    (lambda: nn.ReLU(), "(did you mean Activation?)"),
    (lambda: nn.Chain(nn.Dense(3), "relu"), "/layers/1: no layer is called 'relu' (did you mean 'activation'?)"),
    (lambda: nn.Chain(nn.Dense(3), np.tanh), "/layers/1: this is no layer: one is an object with a 'kind', or the name of a kind, "
                                               "found the function tanh"),
    (lambda: nn.Chain(nn.Flatten, nn.Dense(3)), "the name of a kind, found the class Flatten, not one made with Flatten(...)"),
    (lambda: nn.Dense(1).build((None, 3)), "without the batch axis, such as (3,) or (28, 28, 1); found (None, 3)"),
    (lambda: nn.Dense(1).build(X), "found an array [8, 3]; of an array x it is x.shape[1:]"),
    # models
    (lambda: model()(X[0]), "this model was built for [batch, 3], and was given [3]"),
    (lambda: model()(X.T), "layers.0 (dense): its weight is [3, 4], this input asks for [8, 4]; "
                           "this model was built for [batch, 3], and was given [3, 8]"),
    (lambda: model().fit(X, Y), "a Model has no attribute 'fit': train(loss, model, DataLoader((x, y), batch_size=32), state) trains it"),
    (lambda: model().predict(X), "call the model itself, model(x)"),
    (lambda: model().nothing, "a Model has no attribute 'nothing'"),
    # losses, gradients
    (lambda: losses.mse(model(), Y), "expected numbers, found a Model; call it, and give what it computes"),
    (lambda: losses.mse(X, X, reduction="sum"), "/reduction: there is no field 'reduction' here (did you mean 'agg'?)"),
    (lambda: losses.mse(X, X, agg="avg"), "/agg: input should be 'mean' or 'sum', found 'avg'"),
    (lambda: losses.logit_cross_entropy(model(3)(X), NAMES), "texts that name classes"),
    (lambda: gradient(losses.mse(X, X), model()), "gradient takes a function first, and what to differentiate by after it, found 0.0"),
    # rules
    (lambda: optim.Adam(model(), 0.1), "/learning_rate: input should be a valid number; a rule has numbers and no state; write state = "
                                       "setup(optim.Adam(), model)"),
    (lambda: optim.Descent()(model()), "Descent is no function: a rule has numbers and no state; write state = setup(optim.Descent(), model)"),
    (lambda: optim.Adam().step(), "Adam has no 'step': a rule has numbers and no state"),
    (lambda: optim.Adam().nothing, "'Adam' object has no attribute 'nothing'"),
    (lambda: setup(optim.Adam, model()), "found the class Adam, not one made with Adam(...)"),
    (lambda: move(optim.Adam(), model(), None), "make its state once with state = setup(rule, model), and give that in its place"),
    (lambda: adjust(optim.Adam(), 0.1), "this is an Adam; what changes rules, freezes and thaws takes the state"),
    (lambda: freeze(optim.Adam()), "this is an Adam"),
    (lambda: destructure(nn.Dense(1)), "make a model of it with model = layer.build(input_shape=...)"),
    (lambda: trainables(nn.Dense(1)), "a layer has no arrays yet"),
    (lambda: params(nn.Dense(1)), "a Dense has no parameters yet: make a model of it"),
    # data
    (lambda: DataLoader(X, Y), "found an array [8, 1]; arrays of one dataset go together: DataLoader((x, y), batch_size=32)"),
    (lambda: DataLoader("train.csv"), "with rows along its first axis; found 'train.csv'"),
    (lambda: data.one_hot(np.arange(3), 2), "the label 2 is none of the 2 classes")])
def test_a_mistake_is_told_with_what_was_found_and_what_to_write(do, told):
    with pytest.raises((TrainyardError, TypeError, ValueError, AttributeError)) as caught:
        do()
    assert told in str(caught.value)


def test_an_error_inside_a_loss_stays_what_it_is():
    def broken(m, x, y):
        return m(x, *y, 1 + "1")

    with pytest.raises(TypeError, match="unsupported operand"):
        trained(batches(), broken)


def test_what_is_meant_is_done_where_it_is_clear():
    seen = []
    trained([(X, Y)], callbacks=lambda event: seen.append(event.step))      # one batch of all rows, one callback alone
    assert seen == [1]
    assert output_size(model(), (3,)) == output_size(model().layer, (3,)) == (1,)
    made = model()
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert np.array_equal(twin(X), made(X))
    assert not hasattr(made, "fit") and not hasattr(optim.Adam(), "step")
