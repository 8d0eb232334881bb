"""Reductions and moments, in the simulator."""

from __future__ import annotations

import pytest

from engine import ops  # noqa: F401
from engine.core import Case, Op
from tests.engine.cuda.simulate import check, simulator, table

inside, test_in_the_simulator = simulator(__file__)
NAMES = ("sum", "mean", "prod", "max", "min", "batch_moments", "batch_norm", "batch_norm_grad", "batch_norm_sums")


@inside
@pytest.mark.parametrize(("op", "case"), table(*NAMES))
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)
