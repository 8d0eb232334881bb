"""Trained models in the forms of other programs."""
