"""Answers as the bytes that callers get: first line, length, body."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from vllm_service.http.messages import REASONS, status_line
from vllm_service.http.server_connection import whole_answer


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (413, b"HTTP/1.1 413 Content Too Large\r\n"),
        (429, b"HTTP/1.1 429 Too Many Requests\r\n"),
        (502, b"HTTP/1.1 502 Bad Gateway\r\n"),
        (418, b"HTTP/1.1 418 -\r\n"),
        (529, b"HTTP/1.1 529 -\r\n"),
    ],
)
def test_a_status_has_its_line_known_or_not(status: int, line: bytes) -> None:
    assert status_line(status) == line


def test_reasons_are_those_of_http() -> None:
    renamed = {413: "Content Too Large", 422: "Unprocessable Content"}  # by RFC 9110; Python has their older names
    expected = {status: renamed.get(status, HTTPStatus(status).phrase).encode() for status in REASONS}
    assert expected == REASONS


@pytest.mark.parametrize("status", [200, 529])
@pytest.mark.parametrize(
    "body", [b"", b"{}", "東京".encode(), b"x" * 100_000], ids=["empty", "small", "unicode", "huge"]
)
def test_a_whole_answer_says_its_length_in_bytes(status: int, body: bytes) -> None:
    answer = whole_answer(status, b"a: b\r\n", b"c: d\r\n", body)
    head, _, rest = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first + b"\r\n" == status_line(status)
    assert lines == [b"a: b", b"c: d", b"content-length: %d" % len(body)]
    assert rest == body
