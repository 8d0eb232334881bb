"""Rows that are weighed, scored, normalised, or chosen by numbers, in the simulator."""

from __future__ import annotations

import pytest

from engine import ops  # noqa: F401
from engine.core import Case, Op
from tests.engine.cuda.simulate import check, simulator, table

inside, test_in_the_simulator = simulator(__file__)
NAMES = ("softmax", "softmax_grad", "log_softmax", "log_softmax_grad", "logsumexp", "softmax_cross_entropy", "softmax_cross_entropy_grad",
         "layer_norm", "layer_norm_grad", "argmax", "gather", "scatter_add", "one_hot", "ctc", "ctc_grad")


@inside
@pytest.mark.parametrize(("op", "case"), table(*NAMES))
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)
