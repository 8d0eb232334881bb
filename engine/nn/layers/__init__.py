"""The layers, one file for each group. A new class marked `@layers.add` in one of these files, or in a new one, is all there is to do."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from sys import modules

from engine.nn.layer import layers

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

AnyLayer = layers.union()
for _layer in layers:
    if not _layer.__pydantic_complete__:        # layers of layers: pydantic looks in their module when the first one is made
        vars(modules[_layer.__module__])["AnyLayer"] = AnyLayer
