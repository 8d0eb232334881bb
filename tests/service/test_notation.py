"""JSON in and out: a long list is read item by item and written piece by piece, and nobody can tell."""

from __future__ import annotations

import json

import pytest

from service import notation
from service.errors import ServiceError
from service.notation import dumps, parse

BODIES = [b'{"rows": [1, 2,3 ]}', b'{"rows":[]}', b'{"rows":[1,]}', b'{"rows":[1 2]}', b'{"rows":[1]} x', b'{"rows":[1],"a":2}', b'{"rows":[1]}}',
          b' { "rows" : [ {"a": 1}, {"a":1,"a":2} ] } ', b'{"rows":[NaN]}', b'{"rows":[1', b'{"rows":["\\ud800"]}', b"[1]", b"", b"\xef\xbb\xbf{}",
          b"\xff\xfe", b'{"rows":[1e999]}', b'{"rows":[12345678901234567890123]}', b'{"rows":' + b"[" * 50 + b"]" * 50 + b"}", b'{"rows":[1]]}',
          b'{"rows":' + b"[" * 9000 + b"]" * 9000 + b"}", b'{"rows":["\xed\xa0\x80"]}', '{"rows":["\\ud800"]}'.encode("utf-16"),
          '{"rows":["ä", {"b": [true, null]}]}'.encode("utf-16")]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body[:40]))
def test_a_long_body_is_read_as_a_short_one(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(long: int) -> object:
        monkeypatch.setattr(notation, "LONG", long)
        try:
            return parse(body)
        except ServiceError as error:
            return error.status, error.code, error.detail, [problem.as_dict() for problem in error.errors]

    assert read(-1) == read(1 << 40)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text, code", [
    ('{"a": "\\ud800"}', "invalid_text"), ('{"\\udfff": 1}', "invalid_text"), ('{"a": ["x\\u0000"]}', "invalid_text"), ('{"a": 1e400}', "not_finite"),
    ('{"a": -' + "9" * 400 + "}", "not_finite")])
def test_what_no_text_and_no_number_is_is_refused_in_every_encoding(text: str, code: str, encoding: str) -> None:
    with pytest.raises(ServiceError) as error:
        parse(text.encode(encoding))
    assert error.value.status == 422 and [problem.code for problem in error.value.errors] == [code]


def test_bytes_that_are_half_a_character_are_no_json() -> None:
    with pytest.raises(ServiceError) as error:
        parse(b'{"a": "\xed\xa0\x80"}')
    assert (error.value.status, error.value.code) == (400, "malformed_json")


@pytest.mark.parametrize("value", [{"a": list(range(1000)), "b": {"c": [[0.5] * 3] * 300}}, list(range(500)), {"a": [1.0] * 300 + [float("nan")]}, {},
                                   []])
def test_long_lists_are_written_as_short_ones(value: object) -> None:
    found = json.loads(dumps(value))
    assert found == value if "nan" not in str(value) else found == {"a": [1.0] * 300 + [None], "a_text": {"300": "NaN"}}
