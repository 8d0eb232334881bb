"""Recurrent cells, in the simulator: whole sequences forwards and back, of ragged units, and the gradient of their weights."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core import FLOATS, OPS, Case, Op, Sample
from engine.ops import recurrent_grid
from engine.ops.recurrent_cells import CELLS, Cell
from tests.engine.cuda.simulate import check, inside, table

NAMES = [name for cell in CELLS for name in (cell.name, f"{cell.name}_grad")]


def case(cell: Cell, back: bool, name: str, rows: int, steps: int, units: int, *more: Sample, **attrs: Any) -> Any:
    """A case of a cell's op, or of its way back, of a cotangent of all steps."""
    kept = Sample((rows, steps, cell.parts * units), 0.1, 0.9)
    first = (Sample((rows, steps, units)), kept) if back else (Sample((rows, steps, cell.gates * units)),)
    made = Case(name, (*first, Sample((units, cell.gates * units), -0.5, 0.5), *more), attrs)
    op = OPS[f"{cell.name}_grad" if back else cell.name]
    return pytest.param(op, made, id=f"{op.name}: {name}")


RAGGED = [case(cell, back, f"{units} units", 5, 2, units, Sample((5, cell.states * units)), Sample((5,), 0, 3, "int64"), reverse=units == 31)
          for cell in CELLS for back in (False, True) for units in (31, 33) if units == 31 or cell.name in ("rnn_tanh", "gru_v3")]
LEFT_OUT = ("whole vectors", "gates within a panel")     # others do the same here


@inside
@pytest.mark.parametrize(("op", "case"), [*(p for p in table(*NAMES) if p.values[1].name not in LEFT_OUT), *RAGGED])
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case, "float64" if "ragged" in case.name or "backwards" in case.name else "float32")


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op", "case"), [p for p in RAGGED if "31" in p.values[1].name])
def test_blocks_too_many_for_shared_memory_live_in_the_arena(op: Op, case: Case, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent_grid, "SHARED", 0)
    check(op, case, dtype)


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op", "case"), table("recurrent_weigh"))
def test_the_gradient_of_weights_is_added_up_in_shares(op: Op, case: Case, dtype: str) -> None:
    check(op, case, dtype)


def test_blocks_live_in_shared_memory_while_they_fit() -> None:
    assert recurrent_grid.place("lstm_walk", "float32", 9, 512, 6) == ("lstm_walk", 0, 3)
    assert recurrent_grid.place("lstm_walk", "float32", 9, 513, 6)[0] == "lstm_walk_far"
    assert recurrent_grid.place("lstm_walk", "float64", 9, 170, 6)[:2] == ("lstm_walk", 0)
