"""A zip of images in class folders: columns `image` [height, width, channels] and `label`, the name of the folder that an image lies in.

PNG and JPEG are read, by what they begin with, all of one size. Gray images (also 1 and 16 bits) have 1 channel; colours, palettes and CMYK 3; with
transparency 4; a data set has the most that one of its images has. Of an animation the first frame is read, and turning marks (EXIF) are left alone.
Entries that systems add (`__MACOSX/`, hidden files, Thumbs.db) are passed over. Names never become paths, and no size in the file is believed.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from engine.data.inference import LONGEST_CLASS, Kind, Reading, ordered
from service.datasets.draft import Draft
from service.datasets.limits import Budget, DatasetError
from service.datasets.npz import BAD, check_directory
from service.datasets.texts import Warnings

FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
NESTED = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"BZh", b"\xfd7zXZ")
LARGEST_FILE = 64_000_000
PER_ENTRY = 512             # bytes of the directory for each image
BATCH_BYTES = 1 << 24
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
SYSTEM = re.compile(r"(^|/)(__MACOSX/|\.[^/.][^/]*|Thumbs\.db$|desktop\.ini$)", re.IGNORECASE)
FAULTS = (OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError, OverflowError, AttributeError, struct.error, zlib.error,
          Image.DecompressionBombError)


@dataclass(frozen=True)
class Item:
    """One image of the archive."""

    entry: zipfile.ZipInfo
    label: str

    @property
    def shown(self) -> str:
        return repr(self.entry.filename[:120])


def read(draft: Draft, path: Path, types: Mapping[str, Kind], budget: Budget) -> tuple[str, Warnings]:
    """Write the images of a zip into a draft; returns the table's kind and the warnings."""
    check_directory(path, budget.limits.images, PER_ENTRY)
    Image.MAX_IMAGE_PIXELS = budget.limits.pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    try:
        archive = zipfile.ZipFile(path)
    except BAD as error:
        raise DatasetError("malformed_zip", f"this zip file cannot be read: {error}") from None
    with archive:
        items = list_items(archive, budget.limits.images)
        height, width, channels, mixed = measure(archive, items, budget)
        needed = len(items) * height * width * channels
        budget.fits(needed, f"an array of {len(items):,} images {[height, width, channels]}")
        writer = draft.column("image", "tensor", np.uint8, (height, width, channels), array=True)
        batch, step = [], max(1, BATCH_BYTES // (height * width * channels))
        second = Budget(budget.limits)
        for item in items:
            batch.append(pixels(archive, item, MODES[channels], second))
            if len(batch) == step:
                writer.append(np.stack(batch))
                batch = []
        if batch:
            writer.append(np.stack(batch))
    names = [item.label for item in items]
    reading = Reading("category", ordered(set(names)))
    draft.column("label", "category", np.int32, classes=reading.classes).append(reading.encode(names))
    return "arrays", mixed


# ---------------------------------------------------------------- the archive

def list_items(archive: zipfile.ZipFile, most: int) -> list[Item]:
    """The images, in the order of the archive."""
    if len(archive.infolist()) > most:
        raise DatasetError("too_many_entries", f"the archive has {len(archive.infolist()):,} entries; at most {most:,} are read", 413)
    found = [Item(entry, label_of(entry)) for entry in archive.infolist() if not entry.is_dir() and not SYSTEM.search(entry.filename)]
    if not found:
        raise DatasetError("no_rows", "the zip file has no images")
    names = [item.entry.filename for item in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError("duplicate_name", f"the zip file has two entries {twice[:120]!r}")
    return found


def label_of(entry: zipfile.ZipInfo) -> str:
    """The folder that an image lies in. The name is only ever a text: one that could be more is refused."""
    name, shown = entry.filename, repr(entry.filename[:120])
    parts = re.split(r"[/\\]", name)
    if any(part in ("", ".", "..") for part in parts) or not name.isprintable() or re.match(r"[A-Za-z]:", name):
        raise DatasetError("bad_name", f"the name {shown} is no place within an archive: names are FOLDER/FILE, without .. or a leading /")
    if len(parts) < 2:
        raise DatasetError("no_class", f"{shown} lies in no folder: each image lies in the folder of its class, as in cats/1.png")
    label = parts[-2].strip()
    if not label or len(label) > LONGEST_CLASS:
        raise DatasetError("bad_name", f"the folder of {shown} is no name of a class: it has 1 to {LONGEST_CLASS} characters")
    if entry.flag_bits & 1:
        raise DatasetError("encrypted", f"{shown} is encrypted: send the archive without a password")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetError("malformed_zip", f"{shown} is packed by method {entry.compress_type}: zip files are stored or deflated here")
    return label


def opened(archive: zipfile.ZipFile, item: Item, budget: Budget) -> tuple[bytes, str]:
    """The bytes of an image, and its format."""
    try:
        with archive.open(item.entry) as stream:
            data = stream.read(LARGEST_FILE + 1)
    except (*BAD, zlib.error) as error:
        raise DatasetError("malformed_zip", f"{item.shown} cannot be unpacked: {error}") from None
    budget.take(len(data))
    if len(data) > LARGEST_FILE:
        raise DatasetError("too_large", f"{item.shown} has more than {LARGEST_FILE:,} bytes", 413)
    for magic, name in FORMATS.items():
        if data.startswith(magic):
            return data, name
    if data.startswith(NESTED):
        raise DatasetError("nested_archive", f"{item.shown} is an archive: an archive within an archive is not read")
    raise DatasetError("not_an_image", f"{item.shown} is neither PNG nor JPEG: an archive of images holds nothing else")


# ---------------------------------------------------------------- the images

def look(data: bytes, form: str, item: Item, budget: Budget) -> Image.Image:
    """An image whose header was read, no more."""
    try:
        return Image.open(io.BytesIO(data), formats=(form,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        detail = f"{item.shown} says that it has more than {budget.limits.pixels:,} pixels: send it smaller"
        raise DatasetError("too_large", detail, 413) from None
    except FAULTS as error:
        raise damaged(item, error) from None


def damaged(item: Item, error: Exception) -> DatasetError:
    return DatasetError("damaged_image", f"{item.shown} cannot be read as an image: {str(error)[:160] or type(error).__name__}")


def channels_of(image: Image.Image) -> int:
    """How many channels an image needs."""
    if image.mode in ("RGBA", "LA", "La", "RGBa", "PA") or "transparency" in image.info:
        return 4
    return 1 if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;") else 3


def measure(archive: zipfile.ZipFile, items: list[Item], budget: Budget) -> tuple[int, int, int, Warnings]:
    """(height, width, channels, warnings) of all images, from their headers."""
    size: tuple[int, int] | None = None
    counts: dict[int, int] = {}
    for item in items:
        with look(*opened(archive, item, budget), item, budget) as image:
            if image.width * image.height > budget.limits.pixels:
                detail = f"{item.shown} is {image.width} x {image.height}: an image has at most {budget.limits.pixels:,} pixels"
                raise DatasetError("too_large", detail, 413)
            size = size or image.size
            if image.size != size:
                detail = f"{item.shown} is {image.width} x {image.height} where {items[0].shown} is {size[0]} x {size[1]}: all images have one size"
                raise DatasetError("size_mismatch", f"{detail}; bring them to it first")
            found = channels_of(image)
            counts[found] = counts.get(found, 0) + 1
    assert size is not None, "there are items"
    most = max(counts)
    said = ", ".join(f"{count:,} with {channels}" for channels, count in sorted(counts.items()))
    detail = f"images have different numbers of channels ({said}): all get {most}"
    return size[1], size[0], most, [] if len(counts) == 1 else [{"code": "mixed_channels", "column": "image", "detail": detail}]


def pixels(archive: zipfile.ZipFile, item: Item, mode: str, budget: Budget) -> np.ndarray:
    """uint8 [height, width, channels] of one image."""
    data, form = opened(archive, item, budget)
    with look(data, form, item, budget) as image:
        try:
            image.load()
            if image.mode.startswith("I"):      # 16 bits: Pillow would cut them off
                image = Image.fromarray(np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8))
            found = np.asarray(image if image.mode == mode else image.convert(mode), np.uint8)
        except FAULTS as error:
            raise damaged(item, error) from None
    return found.reshape(*found.shape[:2], -1)
