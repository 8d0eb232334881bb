"""Matrix products by cuBLASLt: what is asked of the library, carried out in numpy as it would be; and its descriptors, where it is installed."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine import ops  # noqa: F401
from engine.core import apply, leaf
from engine.devices.cuda import blas
from engine.devices.cuda.blas import Blas, Bound, Direct, Refused
from engine.ops import matmul_grid
from engine.ops.matmul_grid import round_operands
from engine.plan.plan import Plan, make
from tests.engine.cuda import simulate
from tests.engine.cuda.simulate import run
from tests.engine.test_ops import assert_near

STREAM, WORKSPACE, NBYTES, ALGORITHM = 7, 0x7000, 1 << 20, 0x5A
KINDS = {0: np.float32, 1: np.float64}


@dataclass
class Thing:
    """What the library made: by which function of which arguments, and the bytes that its attributes were set to."""

    name: str
    arguments: tuple[int, ...]
    attributes: dict[int, bytes] = field(default_factory=dict)

    def whole(self, attribute: int, missing: int = 0) -> int:
        return int.from_bytes(self.attributes.get(attribute, missing.to_bytes(8, "little")), "little")


class Recorder:
    """A library that keeps what it was asked for, and multiplies matrices in columns with numpy."""

    def __init__(self, algorithms: int = 1, workspace: int = NBYTES, state: int = 0):
        self.choice = bytes([ALGORITHM] * 64) + workspace.to_bytes(8, "little") + state.to_bytes(4, "little")
        self.things, self.numbers = dict[int, Thing](), count(100)
        self.algorithms, self.asked, self.products = algorithms, list[Thing](), 0

    def make(self, name: str, *arguments: int) -> int:
        self.things[next(self.numbers)] = Thing(name, arguments)
        return max(self.things)

    def call(self, name: str, *arguments: int) -> None:
        if name.endswith("SetAttribute"):
            thing, attribute, at, nbytes = arguments
            assert self.things[thing].name == name.replace("SetAttribute", "Create")
            self.things[thing].attributes[attribute] = ctypes.string_at(at, nbytes)
        elif name.endswith("Destroy"):
            assert self.things.pop(arguments[0]).name == name.replace("Destroy", "Create")
        else:
            {"MatmulAlgoGetHeuristic": self.choose, "Matmul": self.multiply}[name](*arguments)

    def choose(self, handle: int, operation: int, a: int, b: int, c: int, d: int, preference: int, most: int, choice: int, found: int) -> None:
        assert self.things[handle].name == "Create" and most == 1 and c == d
        asked = self.things[preference]
        assert asked.whole(1) == NBYTES and asked.whole(5) in (4, 8, 16, 32, 64, 128, 256)
        assert len({asked.whole(name) for name in (5, 6, 7, 8)}) == 1
        self.asked.append(self.things[operation])
        ctypes.memmove(choice, self.choice, len(self.choice))
        ctypes.memmove(found, self.algorithms.to_bytes(4, "little"), 4)

    def multiply(self, handle: int, operation: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int, c_layout: int,
                 d: int, d_layout: int, choice: int, workspace: int, nbytes: int, stream: int) -> None:
        assert (self.things[handle].name, workspace, nbytes, stream) == ("Create", WORKSPACE, NBYTES, STREAM)
        assert (c, c_layout) == (d, d_layout) and ctypes.string_at(choice, 64) == bytes([ALGORITHM] * 64)
        how = self.things[operation]
        kind = KINDS[how.arguments[1]]
        one, zero = numbers(alpha, kind, 1)[0], numbers(beta, kind, 1)[0]
        left, right, out = (self.matrices(at, layout, kind) for at, layout in ((a, a_layout), (b, b_layout), (d, d_layout)))
        left = left.swapaxes(1, 2) if how.whole(blas.TURN_A) else left
        right = right.swapaxes(1, 2) if how.whole(blas.TURN_B) else right
        assert left.shape[1:] == (out.shape[1], right.shape[1]) and right.shape[2] == out.shape[2] and zero == 0
        made = one * (left.astype("float64") @ right.astype("float64"))
        assert how.whole(blas.EPILOGUE) in (1, 4)
        if how.whole(blas.EPILOGUE) == 4:
            made += numbers(how.whole(blas.BIAS), kind, out.shape[1])[:, None]
        out[...] = made
        self.products += 1

    def matrices(self, at: int, layout: int, kind: type) -> np.ndarray:
        """[batch, rows, columns] of matrices that lie in columns."""
        found = self.things[layout]
        (_, rows, columns, apart), batch = found.arguments, found.whole(5, 1)
        assert KINDS[found.arguments[0]] is kind and apart >= rows and found.whole(6) == (apart * columns if batch > 1 else 0)
        return numbers(at, kind, batch * columns * apart).reshape(batch, columns, apart)[..., :rows].swapaxes(1, 2)


def numbers(at: int, kind: type, size: int) -> np.ndarray:
    nbytes = size * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(at), kind)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A library that makes all rows of the plans of `simulate.run`; a row that it does not make fails."""
    recorder = Recorder()
    made = Blas(recorder, WORKSPACE, NBYTES)

    def run_plan(plan: Plan, arena: np.ndarray, most_blocks: int, backwards: bool) -> None:
        for row in plan.rows:
            call = made.plan(row)
            assert call, row.kernel
            call(STREAM, arena.ctypes.data)

    monkeypatch.setattr(simulate, "run_plan", run_plan)
    return recorder


def check(name: str, dtype: str, shapes: list[tuple[int, ...]], **attrs: Any) -> None:
    rng = np.random.default_rng(3)
    leaves = [leaf(shape, dtype) for shape in shapes]
    values = {x: rng.normal(size=x.shape).astype(dtype) for x in leaves}
    node = apply(name, *leaves, **attrs)
    expected = node.op.oracle(*(x.astype("float64") for x in values.values()), **node.attrs)
    assert_near(run(node, values), expected, 1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("turned_a", [False, True])
@pytest.mark.parametrize("turned_b", [False, True])
def test_products_in_rows_are_asked_for_as_products_in_columns(dtype: str, turned_a: bool, turned_b: bool, library: Recorder) -> None:
    a, b = (11, 5) if turned_a else (5, 11), (3, 11) if turned_b else (11, 3)
    turns = {"transpose_a": turned_a, "transpose_b": turned_b}
    check("matmul", dtype, [a, b], **turns)
    check("matmul", dtype, [(4, *a), (4, *b)], **turns)
    check("affine", dtype, [a, b, (3,)], **turns)
    assert library.products == 3


def test_a_long_sum_is_made_as_a_whole(library: Recorder) -> None:
    check("matmul", "float64", [(3, 3000), (3000, 2)])
    check("affine", "float64", [(3, 3000), (3000, 2), (2,)])
    assert library.products == 2


def test_a_large_product_is_made_by_the_library_and_finished_by_a_pass_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_grid, "WORTH_A_PASS", 0)
    a, bias, gate = leaf((4, 4)), leaf((4,)), leaf((4, 4))
    for node in (apply("affine", a, a, bias, relu=True), apply("gated_product", a, a, gate)):
        made, plan = Blas(Recorder(), WORKSPACE, NBYTES), make([node], {a: 0, bias: 64, gate: 128}, 256, device="cuda")
        assert [(row.kernel, made.plan(row) is not None) for row in plan.rows] == [("product_16", True), ("product_finish", False)]


def test_equal_products_are_prepared_once_and_each_has_its_own_bias() -> None:
    recorder = Recorder()
    made = Blas(recorder, WORKSPACE, NBYTES)
    x, w, biases = leaf((4, 4)), leaf((4, 4)), [leaf((4,)), leaf((4,))]
    nodes = [apply("affine", x, w, bias) for bias in biases]
    arena = simulate.aligned(4096)
    placed = {x: 0, w: 64, biases[0]: 128, biases[1]: 192}
    for at, value in ((0, np.eye(4)), (64, np.eye(4)), (128, np.arange(4)), (192, -np.arange(4))):
        arena[at: at + 4 * value.size].view(np.float32)[:] = value.reshape(-1)
    plan = make(nodes, placed, 256, device="cuda")
    calls = [made.plan(row) for row in plan.rows]
    for call in calls:
        assert call
        call(STREAM, arena.ctypes.data)
    found = [arena[plan.at(node):][:64].view(np.float32).reshape(4, 4) for node in nodes]
    np.testing.assert_array_equal(found, [np.eye(4) + np.arange(4), np.eye(4) - np.arange(4)])
    assert len(recorder.asked) == 1 and recorder.things[100].name == "Create"


@pytest.mark.parametrize(("precision", "compute"), [("full", 68), ("tf32", 77), ("bf16", 75)])
def test_the_precision_is_the_library_s_to_keep(precision: str, compute: int) -> None:
    recorder, a = Recorder(), leaf((4, 4))
    plan = make([apply("matmul", a, a)], {a: 0}, 256, device="cuda")
    round_operands(plan.rows, precision)
    assert Blas(recorder, WORKSPACE, NBYTES).plan(plan.rows[0])
    assert recorder.asked[0].arguments == (compute, 0)


def test_what_the_library_does_not_make_is_left_to_our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_grid, "LONG", 64)
    a, b, none = leaf((4, 300)), leaf((300, 4)), leaf((4, 0))
    gated = apply("gated_product", a, b, leaf((4, 4), value=np.ones((4, 4), "float32")))
    nothing = apply("matmul", none, none, transpose_b=True)
    relu = apply("affine", a, a, leaf((4,), value=np.ones(4, "float32")), transpose_b=True, relu=True)
    plan = make([gated, nothing, relu, apply("tanh", a)], {a: 0, b: 6400, none: 12800}, 12800, device="cuda")
    assert len(plan.rows) == 6
    made = Blas(Recorder(), WORKSPACE, NBYTES)
    assert [made.plan(row) for row in plan.rows] == [None] * 6
    product = make([apply("matmul", a, b)], {a: 0, b: 6400}, 12800, device="cuda")
    for recorder in (Recorder(algorithms=0), Recorder(workspace=NBYTES + 1), Recorder(state=15)):
        made = Blas(recorder, WORKSPACE, NBYTES)
        assert [made.plan(row) for row in product.rows] == [None] * 2 and len(recorder.asked) == 1


def test_algorithms_are_asked_for_by_how_well_the_places_are_aligned() -> None:
    recorder, a, b = Recorder(), leaf((4, 4)), leaf((4, 4))
    plan = make([apply("matmul", a, b)], {a: 0, b: 80}, 256, device="cuda")
    made = Blas(recorder, WORKSPACE, NBYTES)
    assert made.plan(plan.rows[0])
    assert [thing.whole(5) for thing in recorder.things.values() if thing.name == "MatmulPreferenceCreate"] == [16]


def test_all_that_was_made_is_given_back() -> None:
    recorder, a = Recorder(), leaf((4, 4))
    made = Blas(recorder, WORKSPACE, NBYTES)
    call = made.plan(make([apply("matmul", a, a)], {a: 0}, 256, device="cuda").rows[0])
    assert call and len(recorder.things) == 6
    del made, call
    gc.collect()
    assert not recorder.things


def test_bindings_have_the_names_of_python() -> None:
    def refuse(*arguments: int) -> int:
        raise OSError(arguments)

    bindings = SimpleNamespace(matmul_desc_create=lambda compute, kind: compute + kind, matmul_algo_get_heuristic=refuse, cuBLASLtError=OSError)
    library = Bound(bindings)
    assert library.make("MatmulDescCreate", 68, 1) == 69
    with pytest.raises(Refused, match="cublasLtMatmulAlgoGetHeuristic"):
        library.call("MatmulAlgoGetHeuristic", 1)


def test_without_the_library_there_is_nothing_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "find", lambda: None)
    assert blas.open_blas(90, lambda nbytes: 0) is None


def test_the_library_takes_our_descriptors() -> None:
    library = blas.find()
    if not isinstance(library, Direct):
        pytest.skip("cuBLASLt is not installed, or not without a driver")
    read = library._library.cublasLtMatmulDescGetAttribute
    operation = library.make("MatmulDescCreate", blas.COMPUTE["float32", 1], blas.KINDS["float32"])
    for name, value, kind in ((blas.TURN_A, 1, np.int32), (blas.EPILOGUE, blas.EPILOGUES[1], np.int32), (blas.BIAS, 4096, np.int64)):
        held, found, written = np.array([value], kind), np.zeros(1, kind), np.zeros(1, np.int64)
        library.call("MatmulDescSetAttribute", operation, name, held.ctypes.data, held.itemsize)
        assert read(ctypes.c_void_p(operation), name, ctypes.c_void_p(found.ctypes.data), ctypes.c_size_t(found.itemsize),
                    ctypes.c_void_p(written.ctypes.data)) == 0
        assert found[0] == value and written[0] == held.itemsize
    layout, two, apart = library.make("MatrixLayoutCreate", 0, 5, 3, 5), np.array([2], np.int32), np.array([15])
    library.call("MatrixLayoutSetAttribute", layout, blas.BATCH, two.ctypes.data, 4)
    library.call("MatrixLayoutSetAttribute", layout, blas.STRIDE, apart.ctypes.data, 8)
    preference, room = library.make("MatmulPreferenceCreate"), np.array([1 << 25])
    library.call("MatmulPreferenceSetAttribute", preference, blas.WORKSPACE_BYTES, room.ctypes.data, 8)
    for name in blas.ALIGNMENTS:
        library.call("MatmulPreferenceSetAttribute", preference, name, np.array([16], np.int32).ctypes.data, 4)
    with pytest.raises(Refused):
        library.call("MatmulDescSetAttribute", operation, blas.EPILOGUE, room.ctypes.data, 1)
