"""Derivatives: nodes made from nodes, in reverse and in forward mode, and the functions people call."""
