"""Padding, upsampling and pixel_shuffle against numpy, and derivatives through them."""

from __future__ import annotations

import numpy as np
import pytest

from engine import check_gradient
from engine.errors import ShapeError, SpecError
from engine.nn import Pad, PixelShuffle, Upsample

GRID = np.arange(24.0).reshape(1, 3, 4, 2)


@pytest.mark.parametrize(("mode", "numpys"), [("constant", "constant"), ("repeat", "edge"), ("reflect", "reflect"), ("symmetric", "symmetric"),
                                              ("circular", "wrap")])
def test_padding_means_what_it_means_in_numpy(mode, numpys):
    model = Pad([1, 2, 0, 1], mode).build((3, 4, 2), dtype="float64")
    assert np.array_equal(model(GRID), np.pad(GRID, [(0, 0), (1, 2), (0, 1), (0, 0)], numpys))
    assert check_gradient(lambda v: (model(v) ** 2).sum(), GRID / 10)


def test_padding_is_around_all_axes_between_batch_and_channels():
    assert Pad(1, value=7.0).build((2, 1))(np.zeros((1, 2, 1)))[0, :, 0].tolist() == [7, 0, 0, 7]
    assert Pad([0, 1, 2], "repeat").build((2, 2, 2, 1)).describe()[0]["output_shape"] == (2, 4, 6, 1)
    assert Pad(1, "circular").build((2, 3, 1))(np.zeros((0, 2, 3, 1))).shape == (0, 4, 5, 1)


def test_upsampling_repeats_or_goes_straight_from_corner_to_corner():
    twice = Upsample([2, 3]).build((3, 4, 2), dtype="float64")
    assert np.array_equal(twice(GRID), GRID.repeat(2, 1).repeat(3, 2))
    line = Upsample(2.5, "linear").build((3, 1), dtype="float64")
    assert np.allclose(line(np.array([[[0.0], [6.0], [3.0]]]))[0, :, 0], np.interp(np.linspace(0, 2, 7), [0, 1, 2], [0, 6, 3]))
    assert Upsample(3, "linear").build((1, 1))(np.full((1, 1, 1), 5.0))[0, :, 0].tolist() == [5, 5, 5]
    assert Upsample(0.5, "linear").build((2, 4, 6, 1)).describe()[0]["output_shape"] == (1, 2, 3, 1)
    for model in (twice, Upsample([1.5, 2], "linear").build((3, 4, 2), dtype="float64")):
        assert check_gradient(lambda v, model=model: (model(v) ** 2).sum(), GRID / 10)


def test_pixel_shuffle_lays_channels_out_as_neighbours_the_last_axis_fastest():
    channels = np.arange(12.0).reshape(1, 1, 1, 12)
    found = PixelShuffle(2).build((1, 1, 12), dtype="float64")(channels)
    assert [found[0, :, :, c].tolist() for c in range(3)] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]]
    assert PixelShuffle(3).build((5, 6)).describe()[0]["output_shape"] == (15, 2)


@pytest.mark.parametrize(("layer", "takes", "words"), [
    (Pad(3, "reflect"), (3, 1), "at most 2 elements to reflect"), (Pad(1), (4,), r"\[steps, channels\].*found \[4\]"),
    (PixelShuffle(2), (2, 2, 6), "groups of 4, found 6"), (Upsample(0.1, "linear"), (4, 1), "leaves nothing")])
def test_inputs_that_do_not_fit_are_explained(layer, takes, words):
    with pytest.raises(ShapeError, match=words):
        layer.build(takes)


@pytest.mark.parametrize(("layer", "words"), [
    (Pad([1, 2, 3]), "/amount"), (Pad(1, "repeat", value=2.0), "/value"), (Upsample(1.5), "/scale: nearest"), (Upsample([2, 2, 2]), "/scale")])
def test_descriptions_that_do_not_fit_are_explained(layer, words):
    with pytest.raises(SpecError, match=words):
        layer.build((4, 4, 1))
