"""What a model takes from the data: `units: "target"`, the vocabulary of embeddings; which inputs it wants as class numbers, or with channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.data.fitted import Fitted
from engine.nn.layer import Layer

EMBEDDINGS = ("embedding", "embedding_bag")
UNSIZED = ("activation", "dropout", "alpha_dropout", "flatten", "reshape")


def children(layer: Layer) -> dict[str, Layer]:
    """The layers inside a layer, by key; empty where there are none."""
    found = getattr(layer, "layers", None)
    if isinstance(found, Mapping):
        return dict(found)
    if found:
        return {child.name or str(place): child for place, child in enumerate(found)}
    inner = getattr(layer, "layer", None)
    return {"layer": inner} if isinstance(inner, Layer) else {}


def first_layers(layer: Layer, name: str = "x") -> Iterator[tuple[str, Layer]]:
    """(input, layer) for each layer that sees the input of the model first. A parallel layer with named branches gives each the input of its name."""
    inside = children(layer)
    if not inside:
        yield name, layer
    elif layer.kind_name() == "chain":
        yield from first_layers(next(iter(inside.values())), name)
    else:
        for key, child in inside.items():
            yield from first_layers(child, key if layer.kind_name() == "parallel" else name)


def branch_of(model: Layer, output: str) -> Layer | None:
    """The branch that gives one of several outputs: where the model ends in a parallel layer, that of its name."""
    last = model
    while last.kind_name() == "chain" and children(last):
        last = list(children(last).values())[-1]
    return children(last).get(output)


def last_layer(model: Layer, output: str) -> Layer:
    """The last layer of an output that is not an activation, dropout or a change of shape, as far as chains tell."""
    last = branch_of(model, output) or model
    while last.kind_name() == "chain" and (inside := [c for c in children(last).values() if c.kind_name() not in UNSIZED]):
        last = inside[-1]
    return last


def lookups(layer: Layer, inputs: list[str]) -> list[str]:
    """The inputs whose first layers are embeddings only."""
    return _all_first(layer, inputs, lambda first: first.kind_name() in EMBEDDINGS)


def images(layer: Layer, inputs: list[str]) -> list[str]:
    """The inputs whose first layers move windows over two axes, and so want channels behind them."""
    return _all_first(layer, inputs, _moves_over_two_axes)


def _moves_over_two_axes(layer: Layer) -> bool:
    lengths = next((found for field in ("kernel_size", "pool_size", "output_size") if (found := getattr(layer, field, None)) is not None), None)
    return lengths is not None and (getattr(layer, "dimensions", None) or (2 if isinstance(lengths, int) else len(lengths))) == 2


def _all_first(layer: Layer, inputs: list[str], holds: Callable[[Layer], bool]) -> list[str]:
    """The inputs of which something holds for every layer that sees them first."""
    found: dict[str, set[bool]] = {}
    for name, first in first_layers(layer):
        found.setdefault(name if name in inputs else "x", set()).add(holds(first))
    return [name for name, answers in found.items() if answers == {True}]


def vocabularies(fitted: Fitted) -> dict[str, int]:
    """How many class numbers each input has, for those that are fed as class numbers."""
    return {item.name: max(column.vocabulary for column in item.columns) for item in fitted.inputs
            if item.columns[0].encoding in ("code", "characters")}


def resolve(layer: Layer, widths: Mapping[str, int], vocabulary: Mapping[str, int], name: str = "x",
            made: dict[tuple[Any, ...], Layer] | None = None) -> Layer:
    """The layer with sizes from the data in place. `widths` are those of the targets, by output name where there are several.

    One layer in two places stays one where it gets one size; `made` holds those that were resolved.
    """
    changes: dict[str, Any] = {}
    made = {} if made is None else made
    if getattr(layer, "units", None) == "target":
        width = widths.get(name) or (next(iter(widths.values())) if len(widths) == 1 else None)
        changes |= {"units": width} if width else {}
    if layer.kind_name() in EMBEDDINGS and getattr(layer, "vocabulary", 0) is None:
        size = vocabulary.get(name) or (next(iter(vocabulary.values())) if len(vocabulary) == 1 else None)
        changes |= {"vocabulary": size} if size else {}
    parallel = layer.kind_name() == "parallel"
    inside = {key: resolve(child, widths, vocabulary, key if parallel else name, made) for key, child in children(layer).items()}
    if changes and not inside:
        return made.setdefault((id(layer), *changes.values()), layer.model_copy(update=changes))
    if inside:
        field = "layer" if isinstance(getattr(layer, "layer", None), Layer) else "layers"
        old = getattr(layer, field)
        changes[field] = inside["layer"] if field == "layer" else inside if isinstance(old, Mapping) else list(inside.values())
    return layer.model_copy(update=changes) if changes else layer
