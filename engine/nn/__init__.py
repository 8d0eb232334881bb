"""Layers and models: the words a model is described with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import engine.ops  # noqa: F401  the ops that layers are made of
from engine.nn import initialisers
from engine.nn.layer import Layer, Scope, trace
from engine.nn.layer import layers as family
from engine.nn.layers import AnyLayer
from engine.nn.layers.attention import MultiHeadAttention, PositionalEncoding
from engine.nn.layers.container import Chain, Maxout, PairwiseFusion, Parallel, SkipConnection
from engine.nn.layers.convolution import Conv, ConvTranspose, DepthwiseConv
from engine.nn.layers.dense import Bilinear, Dense, Scale
from engine.nn.layers.dropout import AlphaDropout, Dropout
from engine.nn.layers.embedding import Embedding, EmbeddingBag
from engine.nn.layers.formula import Lambda
from engine.nn.layers.normalisation import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from engine.nn.layers.pooling import AdaptiveMaxPool, AdaptiveMeanPool, GlobalMaxPool, GlobalMeanPool, MaxPool, MeanPool
from engine.nn.layers.recurrent import GRU, LSTM, RNN, GRUv3
from engine.nn.layers.resampling import Pad, PixelShuffle, Upsample
from engine.nn.layers.shape import Activation, Flatten, Reshape
from engine.nn.layers.weight_norm import WeightNorm
from engine.nn.model import Model, output_size

__all__ = ["Activation", "AdaptiveMaxPool", "AdaptiveMeanPool", "AlphaDropout", "AnyLayer", "BatchNorm", "Bilinear", "Chain", "Conv", "ConvTranspose",
           "Dense", "DepthwiseConv", "Dropout", "Embedding", "EmbeddingBag", "Flatten", "GRU", "GRUv3", "GlobalMaxPool", "GlobalMeanPool",
           "GroupNorm", "InstanceNorm", "LSTM", "Lambda", "Layer", "LayerNorm", "MaxPool", "Maxout", "MeanPool", "Model", "MultiHeadAttention", "Pad",
           "PairwiseFusion", "Parallel", "PixelShuffle", "PositionalEncoding", "RNN", "Reshape", "Scale", "Scope", "SkipConnection", "Upsample",
           "WeightNorm", "initialisers", "output_size", "trace"]

if not TYPE_CHECKING:       # it knows which names there are
    def __getattr__(name: str):
        raise family.unknown(__name__, name)
