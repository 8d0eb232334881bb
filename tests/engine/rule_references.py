"""Every rule once more, in plain float64 numpy: `rule(memory, g, t, x)` gives the step, and keeps in `memory` what it remembers."""

import numpy as np


def moments(s, g, b1=0.9, b2=0.999):
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return s["m"], s["v"]


def adam(s, g, t, x, lr=0.001, b1=0.9, b2=0.999):
    m, v = moments(s, g, b1, b2)
    return lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)


def momentum(s, g, t, x):
    s["v"] = 0.9 * s.get("v", 0) + 0.01 * g
    return s["v"]


def nesterov(s, g, t, x):
    old = s.get("v", 0)
    s["v"] = 0.9 * old - 0.001 * g
    return -0.9**2 * old + 1.9 * 0.001 * g


def rmsprop(s, g, t, x):
    s["q"] = 0.9 * s.get("q", 0) + 0.1 * g**2
    return 0.001 * g / (np.sqrt(s["q"]) + 1e-8)


def rprop(s, g, t, x):
    old, e = s.get("p", 0 * g), s.get("e", 0 * g + 0.001)
    same, turned = g * old > 0, g * old < 0
    s["e"] = np.where(same, np.minimum(1.2 * e, 50), np.where(turned, np.maximum(0.5 * e, 1e-6), e))
    s["p"] = np.where(turned, 0, g)
    return s["e"] * np.sign(s["p"])


def nadam(s, g, t, x):
    m, v = moments(s, g)
    return 0.001 * (0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)) / (np.sqrt(v * 0.999 / (1 - 0.999**t)) + 1e-8)


def radam(s, g, t, x):
    m, v = moments(s, g)
    limit = 2 / 0.001 - 1
    rho = limit - 2 * t * 0.999**t / (1 - 0.999**t)
    if rho <= 4:
        return 0.001 * m / (1 - 0.9**t)
    r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
    return 0.001 * r * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def adamax(s, g, t, x):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["u"] = np.maximum(0.999 * s.get("u", 0), np.abs(g))
    return 0.001 / (1 - 0.9**t) * s["m"] / (s["u"] + 1e-8)


def oadam(s, g, t, x):
    old, s["last"] = s.get("last", 0), adam(s, g, t, x, b1=0.5, b2=0.9)
    return 2 * s["last"] - old


def adagrad(s, g, t, x):
    s["a"] = s.get("a", 1e-8) + g**2
    return 0.1 * g / (np.sqrt(s["a"]) + 1e-8)


def adadelta(s, g, t, x):
    s["a"] = 0.9 * s.get("a", 0) + 0.1 * g**2
    d = g * np.sqrt(s.get("u", 0) + 1e-8) / np.sqrt(s["a"] + 1e-8)
    s["u"] = 0.9 * s.get("u", 0) + 0.1 * d**2
    return d


def amsgrad(s, g, t, x):
    s["m"] = 0.9 * s.get("m", 1e-8) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 1e-8) + 0.001 * g**2
    s["s"] = np.maximum(s.get("s", 1e-8), s["v"])
    return 0.001 * s["m"] / (np.sqrt(s["s"]) + 1e-8)


def adabelief(s, g, t, x):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["s"] = 0.999 * s.get("s", 0) + 0.001 * (g - s["m"]) ** 2 + 1e-16
    return 0.001 * (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["s"] / (1 - 0.999**t)) + 1e-16)


def lion(s, g, t, x):
    s["s"] = 0.999 * g + (1 - 0.999) * s.get("s", 0)
    return 0.001 * np.sign((0.999 - 0.9) * g + 0.9 * s["s"])


def orthogonal(u):
    """Five Newton-Schulz rounds, through the singular values."""
    left, s, right = np.linalg.svd(u / (np.linalg.norm(u) + 1e-7), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return left * s @ right


def muon(s, g, t, x):
    s["m"] = 0.95 * s.get("m", 0) + g
    return 0.02 * (max(1, g.shape[1] / g.shape[0]) ** 0.5 * orthogonal(0.95 * s["m"] + g) + 0.01 * x)


REFERENCES = {"descent": lambda s, g, t, x: 0.1 * g, "momentum": momentum, "nesterov": nesterov, "rmsprop": rmsprop, "rprop": rprop, "adam": adam,
              "adamw": adam, "nadam": nadam, "radam": radam, "adamax": adamax, "oadam": oadam, "adagrad": adagrad, "adadelta": adadelta,
              "amsgrad": amsgrad, "adabelief": adabelief, "lion": lion, "muon": muon}
