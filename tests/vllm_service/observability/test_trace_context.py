"""A caller's trace goes on below a span of ours if it is sound, and is left alone if it is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.observability.tracing import trace_headers

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
SOUND = b"00-%b-%b-01" % (TRACE, SPAN)
LINES = re.compile(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\r\n(tracestate: [^\r\n]*\r\n)?")


@pytest.mark.parametrize(
    ("sent", "flags"),
    [
        pytest.param(SOUND, b"01", id="sampled"),
        pytest.param(SOUND[:-1] + b"0", b"00", id="not sampled"),
        pytest.param(SOUND[:-2] + b"ff", b"ff", id="flags that are not known yet"),
        pytest.param(b"01" + SOUND[2:], b"01", id="a version to come"),
        pytest.param(b"fe" + SOUND[2:], b"01", id="the last version"),
        pytest.param(b"00-" + b"0" * 31 + b"1-" + SPAN + b"-01", b"01", id="almost nothing but zeros"),
    ],
)
def test_a_trace_goes_on_below_a_span_of_our_own(sent: bytes, flags: bytes) -> None:
    first, second = (LINES.fullmatch(trace_headers(sent, None)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first[1] == sent[3:35]
    assert (first[3], first[4]) == (flags, None)
    assert len({first[2], second[2], SPAN}) == 3, "each request has a span of its own"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(None, id="none"),
        pytest.param(b"", id="empty"),
        pytest.param(b"nonsense", id="nonsense"),
        pytest.param(b"ff" + SOUND[2:], id="the version that is none"),
        pytest.param(b"00-" + b"0" * 32 + b"-" + SPAN + b"-01", id="a trace of zeros"),
        pytest.param(b"00-" + TRACE + b"-" + b"0" * 16 + b"-01", id="a span of zeros"),
        pytest.param(SOUND.upper(), id="capitals"),
        pytest.param(SOUND[:-1], id="cut"),
        pytest.param(SOUND + b"0", id="too long"),
        pytest.param(SOUND + b"-more", id="more members"),
        pytest.param(b" " + SOUND, id="a space before it"),
        pytest.param(SOUND + b"\n", id="a line break after it"),
        pytest.param(SOUND.replace(b"-", b"_"), id="other separators"),
        pytest.param(SOUND.replace(b"4", b"g"), id="a letter that is no digit"),
        pytest.param(SOUND * 1000, id="huge"),
    ],
)
def test_what_is_no_trace_is_not_passed_on_nor_is_its_state(sent: bytes | None) -> None:
    assert trace_headers(sent, b"a=b") == b""


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (None, b""),
        (b"", b""),
        (b"a=b,c@d=e", b"tracestate: a=b,c@d=e\r\n"),
        (b"x" * 512, b"tracestate: %b\r\n" % (b"x" * 512)),
        (b"x" * 513, b""),
    ],
    ids=["none", "empty", "two vendors", "the longest", "too long"],
)
def test_a_state_travels_along_up_to_512_bytes(state: bytes | None, line: bytes) -> None:
    assert trace_headers(SOUND, state).partition(b"\r\n")[2] == line


@given(st.binary(max_size=80) | st.binary(max_size=3).map(lambda junk: SOUND[:20] + junk + SOUND[20:]))
def test_no_bytes_make_a_header_that_is_none(sent: bytes) -> None:
    lines = trace_headers(sent, None)
    assert lines == b"" or LINES.fullmatch(lines)
