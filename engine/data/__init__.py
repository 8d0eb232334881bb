"""Data for training: columns and tables, their preprocessing, and batches."""

from engine.data.loader import DataLoader
from engine.data.sampling import (
    kfolds,
    make_moons,
    make_sin,
    make_spiral,
    normalise,
    one_cold,
    one_hot,
    oversample,
    shuffle,
    split,
    stratified,
    undersample,
)
from engine.data.table import Column, Table

__all__ = ["Column", "DataLoader", "Table", "kfolds", "make_moons", "make_sin", "make_spiral", "normalise", "one_cold", "one_hot", "oversample",
           "shuffle", "split", "stratified", "undersample"]
