"""Data for training: columns and tables, their preprocessing, and batches."""

from engine.data.table import Column, Table

__all__ = ["Column", "Table"]
