"""Text in columns, as wide as it needs, so that nothing is cut off in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def printable(text: str) -> str:
    """A text of others for a terminal: what is not to be seen might be a command to it."""
    return text if text.isprintable() else "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows with their cells one below the other; the first row is usually the header."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
