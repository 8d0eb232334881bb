"""Convolution over one, two or three axes of [batch, axes..., channels] with a kernel [axes..., channels of a group, columns].

It is cross-correlation, as the field calls convolution: y[i] = sum over taps t of x[i * stride - low + t * dilation] @ w[t], zeros outside x. With
groups, each group of columns sees its own group of channels. The three ops are the faces of one trilinear form, so each one's derivatives are the
others: conv, its transpose conv_input_grad, and conv_weight_grad.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, leaf, register
from engine.errors import DtypeError, ShapeError
from engine.ops import convolution_grid_launches as grids
from engine.ops import convolution_launches as launches
from engine.ops.convolution_launches import Ints, Slide

DEFAULTS = {"stride": None, "low": None, "high": None, "dilation": None, "groups": 1}


def slide_of(rank: int, stride: Ints | None, low: Ints | None, high: Ints | None, dilation: Ints | None, groups: int) -> Slide:
    """The attributes with their defaults. Raises ShapeError where they do not fit an array with `rank` axes between batch and channels."""
    if not 1 <= rank <= 3:
        raise ShapeError(f"conv takes [batch, 1 to 3 axes, channels], found an array with {rank + 2} axes")
    ones, none = (1,) * rank, (0,) * rank
    found = Slide(tuple(stride or ones), tuple(low or none), tuple(high or none), tuple(dilation or ones), groups)
    if any(len(numbers) != rank for numbers in found[:4]) or min(*found.stride, *found.dilation, groups) < 1 or min(*found.low, *found.high) < 0:
        raise ShapeError(f"conv over {rank} axes takes a number for each: strides and dilations of 1 or more, paddings of 0 or more; found stride "
                         f"{list(found.stride)}, padding {list(found.low)} and {list(found.high)}, dilation {list(found.dilation)}, groups {groups}")
    return found


def _slide(node: Node, rank: int) -> Slide:
    return slide_of(rank, *(node.attrs[name] for name in DEFAULTS))


def convolved(x: Shape, kernel: Ints, slide: Slide) -> Shape:
    """The lengths of the axes that come out. Raises ShapeError where the kernel is larger than what it slides over."""
    lengths = [n + a + b for n, a, b in zip(x[1:-1], slide.low, slide.high, strict=True)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, slide.dilation, strict=True)]
    if min(kernel) < 1 or any(n < span for n, span in zip(lengths, spans, strict=True)):
        raise ShapeError(f"a kernel that spans {spans} is larger than the {lengths} it slides over, padding included; take a smaller one, or pad")
    return tuple((n - span) // s + 1 for n, span, s in zip(lengths, spans, slide.stride, strict=True))


def _floats(*nodes: Node) -> str:
    if any(node.dtype != nodes[0].dtype or node.dtype not in FLOATS for node in nodes):
        raise DtypeError(f"conv takes floats of one type, found {', '.join(node.dtype for node in nodes)}; cast first")
    return nodes[0].dtype


# ---------------------------------------------------------------- shapes

def shape(x: Node, w: Node, bias: Node | None = None, **attrs: Any) -> tuple[Shape, str]:
    slide = slide_of(x.ndim - 2, **attrs)
    if w.ndim != x.ndim or w.shape[-2] * slide.groups != x.shape[-1] or w.shape[-1] % slide.groups:
        raise ShapeError(f"conv of {list(x.shape)} with a kernel {list(w.shape)} in {slide.groups} groups: the kernel must be [{x.ndim - 2} axes, "
                         f"channels of a group, columns], {x.shape[-1]} channels in all, and columns a multiple of the groups")
    if bias is not None and bias.shape != w.shape[-1:]:
        raise ShapeError(f"conv takes a bias of one number for each of {w.shape[-1]} columns, found {list(bias.shape)}")
    return (x.shape[0], *convolved(x.shape, w.shape[:-2], slide), w.shape[-1]), _floats(x, w, *(() if bias is None else (bias,)))


def input_shape(ct: Node, w: Node, lengths: Ints, **attrs: Any) -> tuple[Shape, str]:
    """`lengths` are those of the input's axes."""
    slide = slide_of(ct.ndim - 2, **attrs)
    found = (ct.shape[0], *lengths, w.shape[-2] * slide.groups)
    fits = w.ndim == ct.ndim == len(found) and w.shape[-1] == ct.shape[-1] and not w.shape[-1] % slide.groups
    if not fits or convolved(found, w.shape[:-2], slide) != ct.shape[1:-1]:
        raise ShapeError(f"conv_input_grad: a kernel {list(w.shape)} in {slide.groups} groups does not make {list(ct.shape)} of {list(found)}")
    return found, _floats(ct, w)


def weight_shape(x: Node, ct: Node, kernel: Ints, **attrs: Any) -> tuple[Shape, str]:
    """`kernel` are the lengths of the kernel's axes."""
    slide = slide_of(x.ndim - 2, **attrs)
    fits = ct.ndim == x.ndim == len(kernel) + 2 and ct.shape[0] == x.shape[0] and not x.shape[-1] % slide.groups and not ct.shape[-1] % slide.groups
    if not fits or convolved(x.shape, kernel, slide) != ct.shape[1:-1]:
        raise ShapeError(f"conv_weight_grad: kernels {list(kernel)} in {slide.groups} groups do not make {list(ct.shape)} of {list(x.shape)}")
    return (*kernel, x.shape[-1] // slide.groups, ct.shape[-1]), _floats(x, ct)


# ---------------------------------------------------------------- oracles: tap by tap

def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _seen(kernel: Ints, out: Ints, slide: Slide) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For each tap, which elements of an array with padding all outputs see."""
    for tap in product(*map(range, kernel)):
        at = (slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip(tap, slide.dilation, out, slide.stride, strict=True))
        yield tap, (slice(None), *at)


def _padded(x: np.ndarray, slide: Slide) -> np.ndarray:
    return np.pad(x, [(0, 0), *zip(slide.low, slide.high, strict=True), (0, 0)])


def oracle(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None, **attrs: Any) -> np.ndarray:
    slide = slide_of(x.ndim - 2, **attrs)
    out, padded = convolved(x.shape, w.shape[:-2], slide), _padded(x, slide)
    y = np.zeros((len(x), *out, w.shape[-1])) + (0 if bias is None else bias)
    for tap, at in _seen(w.shape[:-2], out, slide):
        y += np.einsum("...gc,cgf->...gf", _grouped(padded[at], slide.groups), _grouped(w[tap], slide.groups)).reshape(y.shape)
    return y


def input_oracle(ct: np.ndarray, w: np.ndarray, lengths: Ints, **attrs: Any) -> np.ndarray:
    slide = slide_of(ct.ndim - 2, **attrs)
    channels = w.shape[-2] * slide.groups
    grown = _padded(np.zeros((len(ct), *lengths, channels)), slide)
    for tap, at in _seen(w.shape[:-2], ct.shape[1:-1], slide):
        part = np.einsum("...gf,cgf->...gc", _grouped(ct, slide.groups), _grouped(w[tap], slide.groups))
        grown[at] += part.reshape(*ct.shape[:-1], channels)
    return grown[(slice(None), *(slice(a, a + n) for a, n in zip(slide.low, lengths, strict=True)))]


def weight_oracle(x: np.ndarray, ct: np.ndarray, kernel: Ints, **attrs: Any) -> np.ndarray:
    slide = slide_of(x.ndim - 2, **attrs)
    w, padded = np.zeros((*kernel, x.shape[-1] // slide.groups, ct.shape[-1])), _padded(x, slide)
    for tap, at in _seen(kernel, ct.shape[1:-1], slide):
        seen, given = (_grouped(a.reshape(a.size // a.shape[-1], a.shape[-1]), slide.groups) for a in (padded[at], ct))
        w[tap] = np.einsum("ngc,ngf->cgf", seen, given).reshape(w[tap].shape)
    return w


# ---------------------------------------------------------------- derivatives: of a product of two, each by the other two ops

def _attrs(node: Node) -> dict[str, Any]:
    return {name: node.attrs[name] for name in DEFAULTS}


def forward(x: Node, w: Node, like: Node) -> Node:
    return apply("conv", x, w, **_attrs(like))


def to_input(ct: Node, w: Node, x: Node, like: Node) -> Node:
    return apply("conv_input_grad", ct, w, lengths=x.shape[1:-1], **_attrs(like))


def to_weight(x: Node, ct: Node, w: Node, like: Node) -> Node:
    return apply("conv_weight_grad", x, ct, kernel=w.shape[:-2], **_attrs(like))


def vjp(node: Node, ct: Node) -> list[Node]:
    x, w, *bias = node.inputs
    return [to_input(ct, w, x, node), to_weight(x, ct, w, node), *(_total(ct) for _ in bias)]


def _total(ct: Node) -> Node:
    """The sum over all but columns. Max pooling hands back exactly what it is given, element for element: what it was given is less to add up."""
    while ct.op.name == "max_pool_grad" and ct.value is None:
        ct = ct.inputs[0]
    return apply("sum", ct, axis=tuple(range(ct.ndim - 1)))


def input_vjp(node: Node, ct: Node) -> list[Node]:
    y, w = node.inputs
    return [forward(ct, w, node), to_weight(ct, y, w, node)]


def weight_vjp(node: Node, ct: Node) -> list[Node]:
    x, y = node.inputs
    return [to_input(y, ct, x, node), forward(x, ct, node)]


def jvp(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    """The op with each input's tangent in its place, added up; of a bias, its tangent everywhere."""
    a, b = node.inputs[:2]
    terms = [apply(node.op, *pair, **node.attrs) for pair in ((tangents[0], b), (a, tangents[1])) if pair[0] is not None and pair[1] is not None]
    terms += [apply("broadcast", t, shape=node.shape) for t in tangents[2:] if t is not None]
    total = terms[0] if terms else None
    for term in terms[1:]:
        total = total + term   # type: ignore[operator]
    return total


# ---------------------------------------------------------------- ops

def launch(node: Node) -> Sequence[Launch]:
    make = {"conv": launches.conv, "conv_input_grad": launches.conv_input_grad, "conv_weight_grad": launches.conv_weight_grad}[node.op.name]
    return make(node, _slide(node, node.ndim - 2))


def cuda(node: Node) -> Sequence[Launch]:
    make = {"conv": grids.conv, "conv_input_grad": grids.conv_input_grad, "conv_weight_grad": grids.conv_weight_grad}[node.op.name]
    return make(node, _slide(node, node.ndim - 2))


LARGE = "many weights"      # too many for differences
CASES: tuple[tuple[str, Shape, Shape, dict[str, Any]], ...] = (
    ("ragged", (2, 7, 5, 3), (3, 2, 3, 5), {"stride": (2, 1), "low": (1, 0), "high": (2, 1)}),
    ("same", (3, 6, 9, 16), (3, 3, 16, 18), {"low": (1, 1), "high": (1, 1)}),
    ("wide steps", (2, 11, 9, 2), (3, 2, 2, 3), {"stride": (4, 3), "low": (1, 2), "high": (0, 1)}),
    ("dilated", (2, 9, 8, 6), (3, 3, 6, 4), {"stride": (2, 3), "low": (2, 1), "high": (2, 3), "dilation": (2, 2)}),
    ("groups", (2, 5, 6, 34), (2, 3, 17, 6), {"groups": 2, "low": (1, 1), "high": (0, 1)}),
    ("each channel", (2, 5, 7, 3), (3, 3, 1, 6), {"groups": 3, "stride": (2, 4), "low": (1, 1), "high": (1, 0)}),
    ("each channel once", (2, 5, 4, 6), (3, 2, 1, 6), {"groups": 6, "low": (1, 1), "high": (1, 0)}),
    ("one channel", (2, 9, 20, 1), (3, 3, 1, 3), {"low": (1, 1), "high": (1, 1)}),
    ("one channel, steps", (2, 2, 9, 8, 1), (2, 3, 2, 1, 3), {"stride": (1, 2, 3), "low": (1, 1, 2), "high": (0, 2, 1), "dilation": (1, 2, 1)}),
    ("points", (3, 4, 3, 5), (1, 1, 5, 7), {}), ("sequence", (2, 9, 20), (4, 20, 2), {"low": (3,), "dilation": (1,)}),
    ("volume", (1, 3, 4, 5, 2), (2, 3, 2, 2, 3), {"stride": (1, 2, 2), "low": (1, 1, 0), "high": (0, 1, 1)}),
    (LARGE, (2, 3, 3, 128), (3, 3, 128, 130), {"low": (1, 1), "high": (1, 1)}),
    ("empty batch", (0, 4, 4, 2), (3, 3, 2, 3), {}), ("one", (1, 1, 1), (1, 1, 1), {}))
"""Name, input, kernel, attributes."""


def _case(op: str, name: str, x: Shape, w: Shape, attrs: dict[str, Any]) -> Case:
    """A case of one of the three ops, from the shapes of a convolution."""
    y = shape(leaf(x), leaf(w), **{**DEFAULTS, **attrs})[0]
    inputs, more = {"conv": ((x, w), {}), "conv_input_grad": ((y, w), {"lengths": x[1:-1]}), "conv_weight_grad": ((x, y), {"kernel": w[:-2]})}[op]
    return Case(name, tuple(map(Sample, inputs)), {**more, **attrs}, gradient=name != LARGE)


register(Op("conv_weight_grad", shape=weight_shape, oracle=weight_oracle, launch=launch, cuda=cuda, vjp=weight_vjp, jvp=jvp, defaults=DEFAULTS,
            public=False, cases=tuple(_case("conv_weight_grad", *case) for case in CASES),
            description="The cotangent of a convolution carried back to its kernel."))
register(Op("conv_input_grad", shape=input_shape, oracle=input_oracle, launch=launch, cuda=cuda, vjp=input_vjp, jvp=jvp, defaults=DEFAULTS,
            public=False, cases=tuple(_case("conv_input_grad", *case) for case in CASES),
            description="The transpose of a convolution: its cotangent carried back to its input."))
register(Op("conv", shape=shape, oracle=oracle, launch=launch, cuda=cuda, vjp=vjp, jvp=jvp, defaults=DEFAULTS,
            cases=(*(_case("conv", *case) for case in CASES),
                   Case("bias", (Sample((2, 4, 3)), Sample((3, 3, 18)), Sample((18,))), {"low": (1,), "high": (1,)}),
                   Case("bias of each channel", (Sample((2, 4, 3)), Sample((2, 1, 3)), Sample((3,))), {"groups": 3})),
            formula="sum over taps t of x[i * stride - low + t * dilation] @ w[t] + bias",
            description="Convolution (cross-correlation), channels last."))
