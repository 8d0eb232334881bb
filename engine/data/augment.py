"""Augmentation: training rows changed at random while a batch is filled, by seed, step and place in the batch alone.

An image is [height, width] or [height, width, channels]; changes that move pixels are for images, noise is for all inputs.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal
from zlib import crc32

from pydantic import Discriminator, Field, Tag

from engine.core import Launch, Shape, count
from engine.data.fit import Notes
from engine.data.fitted import FittedInput
from engine.kernels.grid import grid
from engine.kernels.library import kernel
from engine.spec import Family, Spec

augmentations = Family("augmentation", {"horizontal_flip": "flip", "random_flip": "flip", "translate": "shift", "random_crop": "crop",
                                        "gaussian_noise": "noise", "random_noise": "noise"})
FLIP, SHIFT, CROP = range(3)
Pixels = Annotated[int, Field(strict=True, ge=1)]


# ---------------------------------------------------------------- kernels

@kernel("augment_pixels")
def augment_pixels(arena, words, begin, end):
    """Rows with their pixels moved. Words: out, x, what (0 flip, 1 shift, 2 crop), place, three sizes of a row, two amounts.

    Read from the control block: seed (0) and step (8). The sizes are height, width, channels; for a flip what is before, along and behind its axis.
    """
    whole, what, size0, size1, size2 = view(arena, 0, int64), words[2], words[4], words[5], words[6]
    numbers = size0 * size1 * size2
    for r in range(begin, end):
        a, b, _, _ = philox(r, words[3], whole[1], 3, whole[0])
        x, y = view(arena, words[1] + r * numbers * WIDTH, real), view(arena, words[0] + r * numbers * WIDTH, real)
        if what == 0:
            turned = int64(a) % 2 == 1
            for i in range(size0):
                for j in range(size1):
                    source = (i * size1 + (size1 - 1 - j if turned else j)) * size2
                    for k in range(size2):
                        y[(i * size1 + j) * size2 + k] = x[source + k]
        elif what == 1:
            down, right = int64(a) % (2 * words[7] + 1) - words[7], int64(b) % (2 * words[8] + 1) - words[8]
            for i in range(size0):
                for j in range(size1):
                    inside = 0 <= i - down < size0 and 0 <= j - right < size1
                    source = ((i - down) * size1 + j - right) * size2
                    for k in range(size2):
                        y[(i * size1 + j) * size2 + k] = x[source + k] if inside else 0.0
        else:
            top, left = int64(a) % (size0 - words[7] + 1), int64(b) % (size1 - words[8] + 1)
            for i in range(size0):
                v = min(max((real(i) + 0.5) * (real(words[7]) / real(size0)) - 0.5, 0.0), real(words[7] - 1))
                i0 = int64(v)
                i1, dv = min(i0 + 1, words[7] - 1), v - real(i0)
                for j in range(size1):
                    u = min(max((real(j) + 0.5) * (real(words[8]) / real(size1)) - 0.5, 0.0), real(words[8] - 1))
                    j0 = int64(u)
                    j1, du = min(j0 + 1, words[8] - 1), u - real(j0)
                    for k in range(size2):
                        above = x[((top + i0) * size1 + left + j0) * size2 + k] * (1.0 - du) + x[((top + i0) * size1 + left + j1) * size2 + k] * du
                        below = x[((top + i1) * size1 + left + j0) * size2 + k] * (1.0 - du) + x[((top + i1) * size1 + left + j1) * size2 + k] * du
                        y[(i * size1 + j) * size2 + k] = above * (1.0 - dv) + below * dv


@kernel("augment_noise")
def augment_noise(arena, words, begin, end):
    """y = x + std * normal. Words: out, x, place, std (float64). Elements 4b to 4b + 3 come from block b."""
    whole, std = view(arena, 0, int64), real(number_of(words[3]))
    x, y = view(arena, words[1], real), view(arena, words[0], real)
    for block in range(begin // 4, (end + 3) // 4):
        a, b, c, d = philox(block, words[2], whole[1], 1, whole[0])
        r0, t0 = sqrt(-2.0 * log(real((a >> SPARE) + 1) * UNIT)), real(b >> SPARE) * UNIT
        r1, t1 = sqrt(-2.0 * log(real((c >> SPARE) + 1) * UNIT)), real(d >> SPARE) * UNIT
        for k in range(min(4, end - 4 * block)):
            z = r0 * cos_turn(t0) if k == 0 else r0 * sin_turn(t0) if k == 1 else r1 * cos_turn(t1) if k == 2 else r1 * sin_turn(t1)
            y[4 * block + k] = x[4 * block + k] + std * z


@grid("augment_pixels", threads=256)
def augment_pixels_grid(arena, words, size):
    """A block of threads per row, a thread per number; words as on the CPU."""
    whole, what, size0, size1, size2 = view(arena, 0, int64), words[2], words[4], words[5], words[6]
    numbers = size0 * size1 * size2
    for r in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        a, b, _, _ = philox(int64(r), words[3], whole[1], 3, whole[0])
        x, y = view(arena, words[1] + r * numbers * WIDTH, real), view(arena, words[0] + r * numbers * WIDTH, real)
        down, right = int64(a) % (2 * words[7] + 1) - words[7], int64(b) % (2 * words[8] + 1) - words[8]
        top, left = int64(a) % (size0 - words[7] + 1), int64(b) % (size1 - words[8] + 1)
        p = uint32(cuda.threadIdx.x)
        while p < numbers:
            pixel = int64(uint32(p) // uint32(size2))
            i = int64(uint32(pixel) // uint32(size1))
            j, k = pixel - i * size1, int64(p) - pixel * size2
            if what == 0:
                turned = int64(a) % 2 == 1
                y[p] = x[(i * size1 + (size1 - 1 - j if turned else j)) * size2 + k]
            elif what == 1:
                inside = 0 <= i - down < size0 and 0 <= j - right < size1
                y[p] = x[((i - down) * size1 + j - right) * size2 + k] if inside else 0.0
            else:
                v = min(max((real(i) + 0.5) * (real(words[7]) / real(size0)) - 0.5, 0.0), real(words[7] - 1))
                u = min(max((real(j) + 0.5) * (real(words[8]) / real(size1)) - 0.5, 0.0), real(words[8] - 1))
                i0, j0 = int64(v), int64(u)
                i1, j1, dv, du = min(i0 + 1, words[7] - 1), min(j0 + 1, words[8] - 1), v - real(i0), u - real(j0)
                above = x[((top + i0) * size1 + left + j0) * size2 + k] * (1.0 - du) + x[((top + i0) * size1 + left + j1) * size2 + k] * du
                below = x[((top + i1) * size1 + left + j0) * size2 + k] * (1.0 - du) + x[((top + i1) * size1 + left + j1) * size2 + k] * du
                y[p] = above * (1.0 - dv) + below * dv
            p = uint32(p + cuda.blockDim.x)


@grid("augment_noise", threads=256, units=1024)
def augment_noise_grid(arena, words, size):
    """A thread per four numbers; words as on the CPU."""
    whole, std = view(arena, 0, int64), real(number_of(words[3]))
    x, y = view(arena, words[1], real), view(arena, words[0], real)
    block = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while 4 * int64(block) < size:
        a, b, c, d = philox(int64(block), words[2], whole[1], 1, whole[0])
        r0, t0 = sqrt(-2.0 * log(real((a >> SPARE) + 1) * UNIT)), real(b >> SPARE) * UNIT
        r1, t1 = sqrt(-2.0 * log(real((c >> SPARE) + 1) * UNIT)), real(d >> SPARE) * UNIT
        for k in range(min(4, size - 4 * int64(block))):
            z = r0 * cos_turn(t0) if k == 0 else r0 * sin_turn(t0) if k == 1 else r1 * cos_turn(t1) if k == 2 else r1 * sin_turn(t1)
            y[4 * int64(block) + k] = x[4 * int64(block) + k] + std * z
        block = uint32(block + cuda.gridDim.x * cuda.blockDim.x)


# ---------------------------------------------------------------- specs

class Augmentation(Spec):
    """One change of the training rows."""

    pixels_only: ClassVar[bool] = True

    @abstractmethod
    def launch(self, out: int, x: int, place: int, rows: int, shape: Shape, dtype: str) -> Launch:
        """The launch that changes `rows` rows of this shape at offset `x` into those at offset `out`. `place` tells one use from another."""

    def problem(self, shape: Shape) -> str | None:
        """Why rows of this shape cannot be changed so."""
        return None


def sizes(shape: Shape) -> tuple[int, int, int]:
    """Height, width and channels."""
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def _moved(what: int, out: int, x: int, place: int, rows: int, dtype: str, three: Sequence[int], two: Sequence[int] = (0, 0)) -> Launch:
    return Launch("augment_pixels", dtype, (out, x, what, place, *three, *two), rows, cost=1.5 * count(three))


@augmentations.add
class Flip(Augmentation):
    """Half of the rows, chosen at random, are turned round along one axis: 0 upside down, 1 left to right."""

    axis: Annotated[int, Field(strict=True, ge=0, le=2)] = 1
    kind: Literal["flip"] = "flip"

    def problem(self, shape: Shape) -> str | None:
        return None if self.axis < len(shape) else f"an image {list(shape)} has no axis {self.axis}"

    def launch(self, out: int, x: int, place: int, rows: int, shape: Shape, dtype: str) -> Launch:
        return _moved(FLIP, out, x, place, rows, dtype, (count(shape[:self.axis]), shape[self.axis], count(shape[self.axis + 1:])))


@augmentations.add
class Shift(Augmentation):
    """Each image is moved by up to so many pixels along both axes; what comes in from outside is 0."""

    pixels: Pixels
    kind: Literal["shift"] = "shift"

    def launch(self, out: int, x: int, place: int, rows: int, shape: Shape, dtype: str) -> Launch:
        return _moved(SHIFT, out, x, place, rows, dtype, sizes(shape), (self.pixels, self.pixels))


@augmentations.add
class Crop(Augmentation):
    """A part of this size, at a random place of each image, is enlarged to the whole, with pixels mixed linearly."""

    size: Annotated[Annotated[Pixels, Tag("number")] | Annotated[list[Pixels], Field(min_length=2, max_length=2), Tag("list")],
                    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number")]
    kind: Literal["crop"] = "crop"

    @property
    def lengths(self) -> Sequence[int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def problem(self, shape: Shape) -> str | None:
        fits = all(part <= whole for part, whole in zip(self.lengths, shape, strict=False))
        return None if fits else f"an image {list(shape)} has no part of size {list(self.lengths)}"

    def launch(self, out: int, x: int, place: int, rows: int, shape: Shape, dtype: str) -> Launch:
        return _moved(CROP, out, x, place, rows, dtype, sizes(shape), self.lengths)


@augmentations.add
class Noise(Augmentation):
    """Normal noise is added to each number, after preprocessing."""

    pixels_only: ClassVar[bool] = False
    std: Annotated[float, Field(strict=True, gt=0)]
    kind: Literal["noise"] = "noise"

    def launch(self, out: int, x: int, place: int, rows: int, shape: Shape, dtype: str) -> Launch:
        return Launch("augment_noise", dtype, (out, x, place, self.std), rows * count(shape), grain=4, cost=4.0)


AnyAugmentation = augmentations.union()


# ---------------------------------------------------------------- of a job

Changes = Mapping[str, Sequence[tuple[Augmentation, int]]]
"""What is done to each batch leaf, in order, each with its place among the uses of randomness."""


def changes_of(wanted: Sequence[Any], inputs: Sequence[FittedInput], windows: bool, notes: Notes) -> Changes:
    """Which changes each input goes through. One that fits no input is a problem."""
    found: dict[str, list[tuple[Augmentation, int]]] = {}
    for k, change in enumerate(wanted):
        numbers = [item for item in inputs if item.dtype != "int32" and count(item.shape)]
        images = [item for item in numbers if len(item.shape) in (2, 3) and not windows and len(item.columns) == 1]
        reasons = [change.problem(item.shape) for item in images] if change.pixels_only else []
        if not (images if change.pixels_only else numbers):
            shown = ", ".join(f"{item.name} {list(item.shape)}" for item in inputs)
            what = "an image [height, width] or [height, width, channels]" if change.pixels_only else "made of numbers"
            notes.problem(f"/data/augment/{k}", "no_images", f"{change.kind_name()} needs an input that is {what}; there is {shown}")
        elif any(reasons):
            notes.problem(f"/data/augment/{k}", "shape_mismatch", f"{change.kind_name()}: {next(r for r in reasons if r)}")
        for item in images if change.pixels_only else numbers:
            found.setdefault(item.leaf, []).append((change, crc32(f"augment:{k}:{item.name}".encode())))
    return found
