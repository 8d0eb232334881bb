"""What a model takes from the data: `units: "target"`, the vocabulary of embeddings; and which inputs it wants as class numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.data.fitted import Fitted
from engine.nn.layer import Layer

EMBEDDINGS = ("embedding", "embedding_bag")


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


def lookups(layer: Layer, inputs: list[str]) -> list[str]:
    """The inputs whose first layers are embeddings only."""
    found: dict[str, set[bool]] = {}
    for name, first in first_layers(layer):
        found.setdefault(name if name in inputs else "x", set()).add(first.kind_name() in EMBEDDINGS)
    return [name for name, kinds in found.items() if kinds == {True}]


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
