"""Layers and models: the words a model is described with."""

from __future__ import annotations

import engine.ops  # noqa: F401  the ops that layers are made of
from engine.nn import initialisers
from engine.nn.layer import Layer, Scope, trace
from engine.nn.layers import AnyLayer
from engine.nn.layers.container import Chain, Parallel, SkipConnection
from engine.nn.layers.dense import Dense, Embedding
from engine.nn.layers.normalisation import Dropout, LayerNorm
from engine.nn.layers.shape import Activation, Flatten, Reshape
from engine.nn.model import Model, output_size

__all__ = ["Activation", "AnyLayer", "Chain", "Dense", "Dropout", "Embedding", "Flatten", "Layer", "LayerNorm", "Model", "Parallel", "Reshape",
           "Scope", "SkipConnection", "initialisers", "output_size", "trace"]
