"""Request ids: harmless in a log, a header and a database, and never the same twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.http.messages import RequestIds

OURS = re.compile(r"req-[0-9a-f]{16}-[0-9a-f]+")


@pytest.mark.parametrize(
    "sent",
    [b"a", b"mine-1", b"00f067aa-0ba9-02b7", b"A.b_c:d/e=f+g-h", b"aGVsbG8=", b"9" * 128, b"req-0000-1"],
    ids=lambda sent: sent.decode()[:20],
)
def test_a_plain_id_of_the_callers_is_kept(sent: bytes) -> None:
    assert RequestIds().of(sent) == sent.decode()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(None, id="none"),
        pytest.param(b"", id="empty"),
        pytest.param(b"9" * 129, id="a character too long"),
        pytest.param(b"9" * 100_000, id="huge"),
        pytest.param(b"a b", id="a space"),
        pytest.param(b" a", id="a space before it"),
        pytest.param(b"a\n", id="a line break after it"),
        pytest.param(b"a\r\nx-evil: 1", id="a header more"),
        pytest.param(b"a\x00", id="a null byte"),
        pytest.param(b"a\x1b[31m", id="an escape sequence"),
        pytest.param(b"<script>", id="markup"),
        pytest.param(b"a'; DROP", id="SQL"),
        pytest.param("é".encode(), id="UTF-8"),
        pytest.param("é".encode()[:1], id="UTF-8, cut in a character"),
        pytest.param("é".encode("latin-1"), id="latin-1"),
        pytest.param("１".encode(), id="a digit of another script"),
    ],
)
def test_every_other_id_is_replaced(sent: bytes | None) -> None:
    assert OURS.fullmatch(RequestIds().of(sent))


@given(st.binary(max_size=200))
def test_whatever_is_sent_an_id_is_short_and_of_plain_characters(sent: bytes) -> None:
    made = RequestIds().of(sent)
    assert re.fullmatch(r"[A-Za-z0-9._:/=+-]{1,128}", made)
    assert made == sent.decode("latin-1") or OURS.fullmatch(made)


def test_no_two_are_the_same_in_one_process_or_in_two() -> None:
    first, second = RequestIds(), RequestIds()
    made = [ids.of(None) for _ in range(1000) for ids in (first, second)]
    assert len(set(made)) == 2000
    assert [text.rpartition("-")[2] for text in made[:6:2]] == ["1", "2", "3"]
