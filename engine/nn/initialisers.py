"""Initial values of parameters: functions of (seed, path, shape), never of call order.

Bits come from Philox keyed by a hash of seed and path, normal numbers from the inverse distribution function, so that a value depends on
nothing but its place. Formulas are Flux's; fans are those of `fans`.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Union

import numpy as np
from pydantic import Field, PlainValidator, TypeAdapter

from engine.core import Shape, count
from engine.errors import ShapeError
from engine.spec import Family, Spec
from engine.special import ndtr, ndtri

initialisers = Family("initialiser", {"kalman_uniform": "kaiming_uniform", "kalman_normal": "kaiming_normal", "xavier": "glorot_uniform",
                                      "he": "kaiming_normal"})


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out): the last two axes are in and out, axes before them (a convolution's kernel) multiply both.

    >>> fans((10, 100)), fans((3, 3, 8, 16)), fans((5,)), fans(())
    ((10, 100), (72, 144), (1, 5), (1, 1))
    """
    if len(shape) < 2:
        return 1, count(shape)
    taps = count(shape[:-2])
    return taps * shape[-2], taps * shape[-1]


class Draw:
    """Random numbers that belong to one place of one seed."""

    def __init__(self, seed: int, path: str, shape: Shape):
        digest = hashlib.blake2b(f"{seed}/{path}/{list(shape)}".encode(), digest_size=16).digest()
        self._bits = np.random.Philox(key=np.frombuffer(digest, np.uint64))
        self.shape = shape

    def uniform(self, shape: Shape | None = None) -> np.ndarray:
        """Numbers in (0, 1), never an end."""
        shape = self.shape if shape is None else shape
        words = self._bits.random_raw(count(shape))
        return ((words >> np.uint64(11)) + 0.5).reshape(shape) * 2.0**-53

    def normal(self, shape: Shape | None = None) -> np.ndarray:
        return ndtri(self.uniform(shape))


class Initialiser(Spec):
    """Makes the initial values of one array."""

    equation: ClassVar[str] = ""

    @abstractmethod
    def draw(self, draw: Draw) -> np.ndarray:
        """Values of `draw.shape` in float64."""

    def check(self, shape: Shape) -> None:
        """Raise ShapeError where there are no such values of this shape."""

    def array(self, shape: Shape, *, seed: int = 0, path: str = "", dtype: str = "float32") -> np.ndarray:
        self.check(shape)
        return np.ascontiguousarray(self.draw(Draw(seed, path, shape)), dtype=dtype)


@initialisers.add
class GlorotUniform(Initialiser):
    """Uniform, so wide that variances keep their size forward and backward (Glorot and Bengio, 2010)."""

    equation: ClassVar[str] = "U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out))"
    aliases: ClassVar[tuple[str, ...]] = ("xavier_uniform",)
    gain: float = 1.0
    kind: Literal["glorot_uniform"] = "glorot_uniform"

    def draw(self, draw: Draw) -> np.ndarray:
        return (draw.uniform() - 0.5) * self.gain * np.sqrt(24 / sum(fans(draw.shape)))


@initialisers.add
class GlorotNormal(Initialiser):
    """Normal, so wide that variances keep their size forward and backward (Glorot and Bengio, 2010)."""

    equation: ClassVar[str] = "N(0, gain * sqrt(2 / (fan_in + fan_out)))"
    aliases: ClassVar[tuple[str, ...]] = ("xavier_normal",)
    gain: float = 1.0
    kind: Literal["glorot_normal"] = "glorot_normal"

    def draw(self, draw: Draw) -> np.ndarray:
        return draw.normal() * self.gain * np.sqrt(2 / sum(fans(draw.shape)))


@initialisers.add
class KaimingUniform(Initialiser):
    """Uniform, so wide that variances keep their size through relu layers (He et al., 2015)."""

    equation: ClassVar[str] = "U(-a, a), a = gain * sqrt(3 / fan_in)"
    aliases: ClassVar[tuple[str, ...]] = ("he_uniform",)
    gain: float = 2.0**0.5
    kind: Literal["kaiming_uniform"] = "kaiming_uniform"

    def draw(self, draw: Draw) -> np.ndarray:
        return (2 * draw.uniform() - 1) * self.gain * np.sqrt(3 / fans(draw.shape)[0])


@initialisers.add
class KaimingNormal(Initialiser):
    """Normal, so wide that variances keep their size through relu layers (He et al., 2015)."""

    equation: ClassVar[str] = "N(0, gain / sqrt(fan_in))"
    aliases: ClassVar[tuple[str, ...]] = ("he_normal",)
    gain: float = 2.0**0.5
    kind: Literal["kaiming_normal"] = "kaiming_normal"

    def draw(self, draw: Draw) -> np.ndarray:
        return draw.normal() * self.gain / np.sqrt(fans(draw.shape)[0])


@initialisers.add
class TruncatedNormal(Initialiser):
    """Normal, cut off at `low` and `high` (in absolute units, not in standard deviations)."""

    equation: ClassVar[str] = "N(mean, std) given low <= x <= high"
    mean: float = 0.0
    std: float = Field(1.0, gt=0)
    low: float = -2.0
    high: float = 2.0
    kind: Literal["truncated_normal"] = "truncated_normal"

    def draw(self, draw: Draw) -> np.ndarray:
        low, high = ndtr((self.low - self.mean) / self.std), ndtr((self.high - self.mean) / self.std)
        return np.clip(self.mean + self.std * ndtri(low + draw.uniform() * (high - low)), self.low, self.high)


@initialisers.add
class LecunNormal(Initialiser):
    """Normal of variance 1 / fan_in, for selu networks; cut off at -2 and 2 in absolute units, as in Flux, so hardly ever."""

    equation: ClassVar[str] = "truncated_normal(std = gain / sqrt(fan_in))"
    gain: float = Field(1.0, gt=0)
    kind: Literal["lecun_normal"] = "lecun_normal"

    def draw(self, draw: Draw) -> np.ndarray:
        return TruncatedNormal(std=self.gain / float(np.sqrt(fans(draw.shape)[0]))).draw(draw)


@initialisers.add
class Orthogonal(Initialiser):
    """Rows or columns, whichever are fewer, at right angles and of length `gain`; axes before the last are taken together."""

    equation: ClassVar[str] = "gain * Q of the QR decomposition of N(0, 1)"
    gain: float = 1.0
    kind: Literal["orthogonal"] = "orthogonal"

    def check(self, shape: Shape) -> None:
        if len(shape) < 2:
            raise ShapeError(f"orthogonal needs at least two axes, found shape {list(shape)}; take normal instead")

    def draw(self, draw: Draw) -> np.ndarray:
        rows, columns = count(draw.shape[:-1]), draw.shape[-1]
        q, r = np.linalg.qr(draw.normal((max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(draw.shape)


@initialisers.add
class Sparse(Initialiser):
    """Normal, with a share `sparsity` of each input's outgoing weights set to zero (Martens, 2010)."""

    equation: ClassVar[str] = "N(0, std), ceil(sparsity * fan_out) zeros per input"
    sparsity: float = Field(ge=0, le=1)
    std: float = Field(0.01, gt=0)
    kind: Literal["sparse"] = "sparse"

    def check(self, shape: Shape) -> None:
        if len(shape) != 2:
            raise ShapeError(f"sparse is for arrays of two axes, found shape {list(shape)}")

    def draw(self, draw: Draw) -> np.ndarray:
        zeros = int(np.ceil(self.sparsity * draw.shape[1]))
        order = np.argsort(draw.uniform(), axis=1)
        return np.where(np.argsort(order, axis=1) < zeros, 0.0, draw.normal() * self.std)


@initialisers.add
class Identity(Initialiser):
    """What goes in comes out: the unit matrix, for convolutions at the centre of the kernel; zeros for one axis."""

    equation: ClassVar[str] = "gain where in = out at the centre, else 0; rolled by shift"
    aliases: ClassVar[tuple[str, ...]] = ("eye",)
    gain: float = 1.0
    shift: int = 0
    kind: Literal["identity"] = "identity"

    def draw(self, draw: Draw) -> np.ndarray:
        values = np.zeros(draw.shape)
        if len(draw.shape) < 2:
            return values
        centre = tuple((k - 1) // 2 for k in draw.shape[:-2])
        values[centre] = self.gain * np.eye(draw.shape[-2], draw.shape[-1])
        return np.roll(values, self.shift, axis=-1)


@initialisers.add
class Zeros(Initialiser):
    """All zero."""

    equation: ClassVar[str] = "0"
    kind: Literal["zeros"] = "zeros"

    def draw(self, draw: Draw) -> np.ndarray:
        return np.zeros(draw.shape)


@initialisers.add
class Ones(Initialiser):
    """All one."""

    equation: ClassVar[str] = "1"
    kind: Literal["ones"] = "ones"

    def draw(self, draw: Draw) -> np.ndarray:
        return np.ones(draw.shape)


@initialisers.add
class Constant(Initialiser):
    """All the same number."""

    equation: ClassVar[str] = "value"
    value: float = 0.0
    kind: Literal["constant"] = "constant"

    def draw(self, draw: Draw) -> np.ndarray:
        return np.full(draw.shape, self.value)


@initialisers.add
class Uniform(Initialiser):
    """Evenly between two numbers."""

    equation: ClassVar[str] = "U(low, high)"
    low: float = 0.0
    high: float = 1.0
    kind: Literal["uniform"] = "uniform"

    def draw(self, draw: Draw) -> np.ndarray:
        return self.low + draw.uniform() * (self.high - self.low)


@initialisers.add
class Normal(Initialiser):
    """Normal numbers."""

    equation: ClassVar[str] = "N(mean, std)"
    mean: float = 0.0
    std: float = Field(1.0, ge=0)
    kind: Literal["normal"] = "normal"

    def draw(self, draw: Draw) -> np.ndarray:
        return self.mean + self.std * draw.normal()


@initialisers.add
class Values(Initialiser):
    """These very numbers (a dense weight is [in, out])."""

    equation: ClassVar[str] = "values"
    values: list[Any] = Field(description="nested lists of numbers, of the parameter's shape")
    kind: Literal["values"] = "values"

    def check(self, shape: Shape) -> None:
        try:
            found = np.asarray(self.values, dtype=np.float64).shape
        except (TypeError, ValueError):
            raise ShapeError(f"the values given do not form an array of numbers; expected shape {list(shape)}") from None
        if found != shape:
            raise ShapeError(f"the values given have shape {list(found)}, the parameter has {list(shape)}")

    def draw(self, draw: Draw) -> np.ndarray:
        return np.asarray(self.values, dtype=np.float64)


AnyInitialiser = initialisers.union()
_one: TypeAdapter[Initialiser] = TypeAdapter(AnyInitialiser)
_each: TypeAdapter[dict[str, Initialiser]] = TypeAdapter(dict[str, AnyInitialiser])  # type: ignore[valid-type]


def _read(value: Any) -> Any:
    return _each.validate_python(value) if isinstance(value, Mapping) and "kind" not in value else _one.validate_python(value)


Init = Annotated[Any, PlainValidator(_read, json_schema_input_type=Union[AnyInitialiser, dict[str, AnyInitialiser]])]  # noqa: UP007
"""A layer's `init`: a name or an object for its weight, or `{"weight": …, "bias": …}` by parameter."""
