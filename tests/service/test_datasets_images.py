"""Zips of images in class folders: what becomes of them, and attacks."""

from __future__ import annotations

import gzip
import io
import random
import struct
import zipfile
import zlib
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.datasets import DatasetError, Limits, ingest, open_table
from tests.service.uploads import npy, refusal, zipped

HERE = Limits(apart_bytes=None)
CHANCE = np.random.default_rng(0)


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(file, form, **options)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return CHANCE.integers(0, 256, shape, dtype=np.uint8)


def lying_png(width: int, height: int) -> bytes:
    """A PNG whose header promises this size, with next to no data."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.fixture
def refused(tmp_path):
    return partial(refusal, tmp_path, limits=HERE)


@pytest.mark.parametrize("wrapped", [False, True])
def test_folders_become_labels(tmp_path, wrapped):
    grays = {f"digits/{i % 3}/{i}.png": noise(6, 5) for i in range(7)}
    extra = {"__MACOSX/digits/._0.png": b"x", "digits/.DS_Store": b"x", "digits/0/Thumbs.db": b"x", "digits/1/": b""}
    data = zipped({**extra, **{name: encoded(pixels) for name, pixels in grays.items()}}, zipfile.ZIP_STORED)
    found = ingest(tmp_path, [gzip.compress(data) if wrapped else data], name="digits.zip", limits=HERE)
    image, label = found.record["columns"]
    assert (image["kind"], image["dtype"], image["shape"], label["kind"], label["classes"]) == ("tensor", "uint8", [6, 5, 1], "category", [0, 1, 2])
    table = open_table(tmp_path, found.sha256)
    assert np.array_equal(table.columns["image"].data[..., 0], np.stack(list(grays.values()))) and table.columns["image"].image
    assert [row["label"] for row in table.preview()] == [0, 1, 2, 0, 1, 2, 0] and found.record["format"] == "images"


def test_a_zip_is_known_by_its_first_entry(tmp_path):
    image = encoded(noise(4, 4, 3))
    assert ingest(tmp_path, [zipped({"a/1.png": image})], limits=HERE).record["columns"][0]["shape"] == [4, 4, 3]
    assert ingest(tmp_path, [zipped({"x.npy": npy(np.arange(3))})], limits=HERE).record["format"] == "npz"


def test_every_mode_becomes_bytes_and_the_richest_wins(tmp_path):
    colours = noise(8, 8, 4)
    deep = CHANCE.integers(0, 65536, (8, 8)).astype(np.uint16)
    palette = Image.fromarray(noise(8, 8, 3)).quantize(16)
    for form, channels in ((colours[..., 0], 1), (Image.fromarray(colours[..., 0] > 99), 1), (deep, 1), (palette, 3), (colours[..., :3].copy(), 3),
                           (colours, 4), (Image.fromarray(colours).convert("LA"), 4)):
        shape = ingest(tmp_path, [zipped({"a/1.png": encoded(form)})], limits=HERE).record["columns"][0]["shape"]
        assert shape == [8, 8, channels]
    mixed = {"a/1.png": encoded(colours), "b/2.jpg": encoded(colours[..., :3].copy(), "JPEG"), "b/3.png": encoded(palette), "a/4.png": encoded(deep),
             "a/5.jpg": encoded(Image.fromarray(colours).convert("CMYK"), "JPEG")}
    found = ingest(tmp_path, [zipped(mixed)], limits=HERE)
    assert [warning["code"] for warning in found.record["warnings"]] == ["mixed_channels"]
    pixels = open_table(tmp_path, found.sha256).columns["image"].data
    assert np.array_equal(pixels[0], colours) and np.array_equal(pixels[3][..., 1], deep >> 8) and (pixels[1:, ..., 3] == 255).all()
    assert np.array_equal(pixels[2][..., :3], np.asarray(palette.convert("RGB")))


def test_one_size_or_the_file_is_named(refused):
    error = refused(zipped({"a/1.png": encoded(noise(4, 6)), "b/two.png": encoded(noise(5, 6))}))
    assert error.code == "size_mismatch" and "'b/two.png' is 6 x 5 where 'a/1.png' is 6 x 4" in error.detail


@pytest.mark.parametrize(("name", "code"), [
    ("1.png", "no_class"), ("../a/1.png", "bad_name"), ("/etc/1.png", "bad_name"), ("a/../../1.png", "bad_name"), ("a\\..\\1.png", "bad_name"),
    ("C:/a/1.png", "bad_name"), ("a//1.png", "bad_name"), ("a\n/1.png", "bad_name"), ("x" * 300 + "/1.png", "bad_name"), (" /1.png", "bad_name"),
    ("a\u202e/1.png", "bad_name")])
def test_names_never_become_paths(refused, name, code):
    assert refused(zipped({name: encoded(noise(4, 4))}), format="images").code == code


def test_what_is_no_image_is_refused(refused):
    image = encoded(noise(4, 4))
    for data, code in ((b"hello", "not_an_image"), (zipped({"b/1.png": image}), "nested_archive"), (gzip.compress(image), "nested_archive"),
                       (image[:60], "damaged_image"), (image[:8], "damaged_image"), (b"\xff\xd8\xff" + bytes(50), "damaged_image"),
                       (encoded(noise(64, 64, 3), "JPEG")[:700], "damaged_image"), (b"GIF89a" + bytes(50), "not_an_image"), (b"", "not_an_image")):
        error = refused(zipped({"a/0.png": data}), format="images")
        assert (error.code, error.status) == (code, 422) and "'a/0.png'" in error.detail
    assert refused(zipped({"a/": b""}), format="images").code == "no_rows"
    assert refused(b"PK\x05\x06" + bytes(18), format="images").code == "no_rows"
    assert refused(zipped({"a/1.png": image}, zipfile.ZIP_LZMA), format="images").code == "malformed_zip"
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning):
        for _ in range(2):
            archive.writestr("a/1.png", image)
    assert refused(twice.getvalue(), format="images").code == "duplicate_name"


def test_huge_promises_are_refused_before_anything_is_made(refused):
    for size in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (4000, 100)):
        error = refused(zipped({"a/1.png": lying_png(*size)}), format="images", limits=Limits(apart_bytes=None, pixels=300_000))
        assert error.code in ("too_large", "damaged_image") and error.status in (413, 422)
    many = zipped({f"a/{i}.png": lying_png(500, 500) for i in range(30)})
    error = refused(many, format="images", limits=Limits(apart_bytes=None, expanded_bytes=20_000_000))
    assert (error.status, error.code) == (413, "too_large") and "30 images [500, 500, 3]" in error.detail
    assert refused(zipped({"a/1.png": lying_png(500, 500)}), format="images").code == "damaged_image"


def test_bombs_are_counted_as_they_come(refused):
    bomb = zipped({f"a/{i}.png": b"\x89PNG\r\n\x1a\n" + bytes(3_000_000) for i in range(30)})
    error = refused(bomb, format="images", limits=Limits(apart_bytes=None, expanded_bytes=2_000_000))
    assert (error.status, error.code) == (413, "too_large")
    tiny = zipped({f"a/{i}": b"" for i in range(3000)})
    assert refused(tiny, format="images", limits=Limits(apart_bytes=None, images=2999)).code == "too_many_entries"
    lie = bytearray(tiny)
    lie[-14:-10] = struct.pack("<HH", 1, 1)         # the directory says that it has one entry
    assert refused(bytes(lie), format="images", limits=Limits(apart_bytes=None, images=2999)).code in ("too_many_entries", "malformed_zip")


def test_text_in_an_image_is_bounded(refused):
    chunk = b"zTXt" + b"k\0\0" + zlib.compress(bytes(200_000_000), 9)
    data = lying_png(4, 4)
    bomb = data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    assert refused(zipped({"a/1.png": bomb}), format="images").code == "damaged_image"


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_an_error_or_images(tmp_path, seed):
    chance = random.Random(seed)
    form = "PNG" if seed % 2 else "JPEG"
    data = bytearray(zipped({f"{i % 2}/{i}.x": encoded(noise(8, 8, 3), form) for i in range(3)}, zipfile.ZIP_STORED))
    for _ in range(chance.randint(1, 5)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    try:
        ingest(tmp_path, [bytes(data)], format="images", limits=Limits(apart_bytes=None, expanded_bytes=5_000_000, pixels=1_000_000))
    except DatasetError as error:
        assert error.detail and not list((tmp_path / "datasets").iterdir())
    for cut in (10, len(data) // 2, len(data) - 5):
        assert refusal(tmp_path / "cut", bytes(data[:cut]), format="images", limits=HERE).status == 422
