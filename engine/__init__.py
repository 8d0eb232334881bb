"""Trainyard's engine: models, derivatives and training on arrays. The same names serve a person at a prompt and the service's workers."""

from engine import core, data, nn, ops, optim
from engine.autodiff.api import gradient, hvp, jacobian, jvp, withgradient
from engine.autodiff.check import check_gradient
from engine.autodiff.implicit import params
from engine.data import DataLoader
from engine.devices.values import compute
from engine.errors import SkipUpdate, StopTraining
from engine.nn import losses, output_size
from engine.optim import adjust, destructure, freeze, schedules, setup, thaw, trainables, update
from engine.train.prompt import triggers as callbacks
from engine.train.prompt.python import train, train_step

core.bind(compute)

__all__ = ["DataLoader", "SkipUpdate", "StopTraining", "adjust", "callbacks", "check_gradient", "data", "destructure", "freeze", "gradient", "hvp",
           "jacobian", "jvp", "losses", "nn", "ops", "optim", "output_size", "params", "schedules", "setup", "thaw", "train", "train_step",
           "trainables", "update", "withgradient"]
