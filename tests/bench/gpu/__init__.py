"""Measurements on a GPU, each beside its target."""
