"""Optimisation: rules, transforms of gradients, schedules, and the state that goes with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.optim import schedules
from engine.optim.adaptive import AdaBelief, AdaDelta, AdaGrad, Adam, AdaMax, AdamW, AMSGrad, Lion, NAdam, OAdam, RAdam
from engine.optim.averages import EMA, Lookahead
from engine.optim.chain import Chain, Optimiser
from engine.optim.muon import Muon
from engine.optim.parameters import destructure, trainables
from engine.optim.rules import Descent, Momentum, Nesterov, RMSProp, Rprop, Rule, rules
from engine.optim.state import Leaf, adjust, at_epoch, averaged, freeze, setup, thaw, update
from engine.optim.step import OptimiserStep, steps
from engine.optim.transforms import AccumGrad, ClipGlobalNorm, ClipGrad, ClipNorm, GradientNoise, SignDecay, WeightDecay, transforms

__all__ = ["AMSGrad", "AccumGrad", "AdaBelief", "AdaDelta", "AdaGrad", "AdaMax", "Adam", "AdamW", "Chain", "ClipGlobalNorm", "ClipGrad", "ClipNorm",
           "Descent", "EMA", "GradientNoise", "Leaf", "Lion", "Lookahead", "Momentum", "Muon", "NAdam", "Nesterov", "OAdam", "Optimiser",
           "OptimiserStep", "RAdam", "RMSProp", "Rprop", "Rule", "SignDecay", "WeightDecay", "adjust", "at_epoch", "averaged", "destructure",
           "freeze", "rules", "schedules", "setup", "steps", "thaw", "trainables", "transforms", "update"]

if not TYPE_CHECKING:       # it knows which names there are
    def __getattr__(name: str):
        raise rules.unknown(__name__, name)
