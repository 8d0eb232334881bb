"""Plain text: one column `text`, whose rows are the lines. Its bytes stay one piece, line feeds included, for models that read characters."""

from __future__ import annotations

import io

import numpy as np

from service.datasets.draft import Draft, Writer
from service.datasets.limits import DatasetError
from service.datasets.texts import Open, Warnings

CHARACTERS = 1 << 20


def read(draft: Draft, opened: Open) -> Warnings:
    """Write the lines into a draft; returns the warnings. CR LF becomes LF."""
    try:
        copy(draft.column("text", "text", np.int64), opened, "utf-8-sig")
        return []
    except UnicodeError:
        draft.clear()
        copy(draft.column("text", "text", np.int64), opened, "latin-1")
        return [{"code": "not_utf8", "column": "text", "detail": "the file is not UTF-8 text, and was read as Latin-1: check accented letters"}]


def copy(writer: Writer, opened: Open, encoding: str) -> None:
    with opened() as stream:
        text, last = io.TextIOWrapper(stream, encoding), "\n"
        while piece := text.read(CHARACTERS):
            if "\0" in piece:
                raise DatasetError("nul_byte", "the text has a NUL byte: this is not text; save the file as UTF-8 text", row=writer.rows)
            content, last = piece.encode(), piece[-1]
            writer.append_text(content, np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")) + 1)
        if last != "\n":
            writer.append_text(b"\n", np.ones(1, np.int64))
    if not writer.rows:
        raise DatasetError("empty", "the file is empty")
