"""Convolution and pooling, in the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from engine import ops  # noqa: F401
from engine.core import FLOATS, OPS, Case, Op, Sample, apply, leaf
from engine.ops import convolution_grid_launches as launches
from tests.engine.cuda.simulate import check, inside, run, table

LONG = ("same", "many weights", "groups", "one channel")     # of convolutions: too many products for the simulator
CONVOLUTIONS = [p for p in table("conv", "conv_input_grad", "conv_weight_grad") if p.values[1].name not in LONG]


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op", "case"), CONVOLUTIONS)
def test_convolutions_agree_with_the_oracle(op: Op, case: Case, dtype: str) -> None:
    check(op, case, dtype)


@inside
@pytest.mark.parametrize(("op", "case"), table("mean_pool", "mean_pool_grad", "max_pool", "max_pool_grad"))
def test_pools_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)
    check(op, case, "float64")


def faces(x: tuple[int, ...], w: tuple[int, ...], **attrs: object) -> list[tuple[Op, Case]]:
    """A convolution, and both of its gradients, as cases."""
    y = apply("conv", leaf(x), leaf(w), **attrs).shape
    return [(OPS["conv"], Case("", (Sample(x), Sample(w)), attrs)),
            (OPS["conv_input_grad"], Case("", (Sample(y), Sample(w)), {"lengths": x[1:-1], **attrs})),
            (OPS["conv_weight_grad"], Case("", (Sample(x), Sample(y)), {"kernel": w[:-2], **attrs}))]


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("face", range(3), ids=("conv", "conv_input_grad", "conv_weight_grad"))
@pytest.mark.parametrize(("x", "w", "attrs"), [
    ((1, 6, 11, 8), (1, 2, 4, 66), {"groups": 2, "low": (0, 1)}),      # two tiles of rows for each group, four channels at once
    ((1, 6, 11, 33), (1, 2, 33, 4), {"low": (0, 1)}),
    ((1, 22, 12), (3, 12, 33), {}),
    ((1, 9, 3), (2, 3, 12), {}),
    ((1, 33, 3), (3, 3, 20), {"low": (1,), "high": (1,)}),
], ids=("large tiles", "many channels", "many weights", "narrow tiles", "small tiles"))
def test_tiles_and_parts_of_all_sizes_agree(face: int, x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, object], dtype: str,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "ENOUGH", 1)
    monkeypatch.setattr(launches, "PART", (1, 18))
    check(*faces(x, w, **attrs)[face], dtype)


@inside
@pytest.mark.parametrize("attrs", [{"groups": 35}, {"groups": 35, "stride": (2,), "low": (1,), "high": (1,)}], ids=("close", "steps"))
def test_the_weights_of_single_channels_are_added_up_in_parts(attrs: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "PART", (1, 8))
    for op, case in faces((3, 5, 35), (2, 1, 35), **attrs)[2:]:
        check(op, case, "float64")


@inside
def test_the_first_of_equals_and_of_nans_is_given_what_a_window_is_given() -> None:
    x = np.random.default_rng(0).integers(0, 3, (2, 5, 6, 2)).astype("float32")
    x[0, 1:3, 2, 0] = x[1, 4, 3:, 1] = np.nan
    attrs = {"window": (3, 2), "stride": (1, 2), "low": (1, 1), "high": (1, 0)}
    ct = np.random.default_rng(1).normal(size=apply("max_pool", leaf(x.shape), **attrs).shape).astype("float32")
    leaves = [leaf(ct.shape), leaf(x.shape)]
    found = run(apply("max_pool_grad", *leaves, **attrs), dict(zip(leaves, (ct, x), strict=True)))
    np.testing.assert_allclose(found, OPS["max_pool_grad"].oracle(ct, x, **attrs), rtol=1e-6, atol=1e-6)
    found = run(apply("max_pool", leaves[1], **attrs), {leaves[1]: x})
    np.testing.assert_array_equal(found, OPS["max_pool"].oracle(x, **attrs))
