"""Rows of predictions: what they are asked of, as JSON or CSV, and what is answered as CSV.

In CSV that goes out, a text that begins with = + - @ or a tab or line end has an apostrophe before it: a spreadsheet would take it for a formula.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from engine.errors import Problem, SpecError
from service.datasets.commas import pointed, with_commas
from service.datasets.csv import likely_delimiter
from service.errors import invalid_request, too_large
from service.notation import Json, as_object, closed

FORMS = ("rows", "inputs", "dataset")
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
ONE_FORM = "send exactly one of rows, inputs and dataset"


# ---------------------------------------------------------------- in

def asked_rows(raw: Any, most: int) -> Json:
    """The `rows` or `inputs` of a prediction's JSON. 422 for anything else, 413 for more than one prediction takes."""
    found = closed(as_object(raw), FORMS)
    if len(found) != 1:
        raise invalid_request(ONE_FORM, [Problem("", "one_form", ONE_FORM.removeprefix("send "))])
    name, given = next(iter(found.items()))
    if name == "dataset":
        raise too_large("a request that names a dataset is short")
    for rows in given.values() if name == "inputs" and isinstance(given, dict) else [given]:
        if not isinstance(rows, list):
            raise invalid_request(f"{name} is a list of rows", [Problem(f"/{name}", "invalid_value", f"{name} is a list of rows")])
        check_count(len(rows), most)
    return found


def check_count(rows: int, most: int) -> None:
    if rows > most:
        raise too_large(f"one prediction takes at most {most:,} rows; these are {rows:,}")


def read_text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid_request(f"the CSV text is not UTF-8 (byte {error.start})") from None


def rows_of(text: str, known: tuple[str, ...], most: int) -> list[dict[str, str | None]]:
    """CSV as rows. Without a header that has a known name the columns are c0, c1, … as in an upload."""
    delimiter = likely_delimiter(text[:1 << 16].splitlines()[:100])
    cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        table = [row for row in cells if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise SpecError([Problem("", "malformed_csv", f"line {cells.line_num} cannot be read: {error}")]) from None
    if not table:
        raise SpecError([Problem("", "empty", "the text has no rows")])
    header = [name.strip() for name in table[0]]
    names, rows = (header, table[1:]) if set(header) & set(known) else ([f"c{place}" for place in range(len(header))], table)
    check_count(len(rows), most)
    if wrong := [place for place, row in enumerate(rows) if len(row) != len(names)]:
        raise SpecError([Problem(f"/{wrong[0]}", "ragged", f"this row has {len(rows[wrong[0]])} cells, the first one {len(names)}")])
    if delimiter != ",":
        commas = with_commas(rows, names, {})
        rows = [[pointed(cell) if place in commas else cell for place, cell in enumerate(row)] for row in rows]
    return [{name: cell.strip() for name, cell in zip(names, row, strict=True)} for row in rows]


# ---------------------------------------------------------------- out

def as_csv(answers: Iterable[Json]) -> Iterator[bytes]:
    """A header, and a line for each row: `class` and a column `probability_NAME` for each class, or `output`, `output_0`, …; by output name, where
    there are several, and `loss` where it was asked for. A missing or not finite number is empty."""
    for place, answer in enumerate(answers):
        columns = table(answer)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if place == 0:
            writer.writerow([safe(name) for name, _ in columns])
        writer.writerows(zip(*(map(cell, values) for _, values in columns), strict=True))
        yield text.getvalue().encode()


def table(answer: Json) -> list[tuple[str, list[Any]]]:
    """The columns of a prediction."""
    several = isinstance(answer["outputs"], Mapping)
    names = list(answer["outputs"]) if several else [""]

    def part(key: str, name: str) -> Any:
        return answer.get(key, {}).get(name) if several else answer.get(key)

    found: list[tuple[str, list[Any]]] = []
    for name in names:
        prefix = f"{name}_" if name else ""
        if (classes := part("classes", name)) is not None and not (classes and isinstance(classes[0], list)):
            found.append((f"{prefix}class", classes))
            chances = zip(*part("probabilities", name), strict=True)
            found += [(f"{prefix}probability_{label}", list(values)) for label, values in zip(part("class_names", name), chances, strict=True)]
        else:
            values = np.asarray(part("outputs", name), object if not part("outputs", name) else None)
            flat = values.reshape(len(values), -1).T.tolist()
            found += [(f"{prefix}output{f'_{k}' if len(flat) > 1 else ''}", column) for k, column in enumerate(flat)]
    return [*found, ("loss", answer["losses"])] if "losses" in answer else found


def cell(value: Any) -> Any:
    if isinstance(value, str):
        return safe(value)
    return "" if value is None or (isinstance(value, float) and not np.isfinite(value)) else str(value).lower() if isinstance(value, bool) else value


def safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULAS) else text
