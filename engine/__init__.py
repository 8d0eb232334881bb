"""Trainyard's engine: models, derivatives and training on arrays. The same names serve a person at a prompt and the service's workers."""

from engine import core, ops
from engine.autodiff.api import gradient, hvp, jacobian, jvp, withgradient
from engine.autodiff.implicit import params
from engine.devices import values
from engine.errors import SkipUpdate, StopTraining

core.bind(values.compute)

__all__ = ["SkipUpdate", "StopTraining", "gradient", "hvp", "jacobian", "jvp", "params", "withgradient"]
