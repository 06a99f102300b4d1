"""An event has a limit of bytes and of lines, however it is cut, in gateway and client alike."""

from __future__ import annotations

import pytest

from vllm_service.domain.event_stream import LONGEST_EVENT_BYTES, MOST_LINES, Event, EventSplitter, TooLong
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import CHAT
from vllm_service.http.upstream import CutShort


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(b"data: " + b"x" * 2**20, id="one line"),
        pytest.param((b"data: " + b"x" * 2**10 + b"\n") * 2**10, id="long lines"),
        pytest.param(b"data:\n" * 2**15, id="many lines"),
    ],
)
def test_an_event_without_an_end_is_too_long_at_its_limit(endless: bytes) -> None:
    splitter = EventSplitter()
    most = LONGEST_EVENT_BYTES // len(endless) + 2
    with pytest.raises(TooLong):
        _ = [list(splitter.feed(endless)) for _ in range(most)]


def test_an_event_of_as_many_lines_as_there_may_be_is_read() -> None:
    data = b"data: x\n" * MOST_LINES
    assert list(EventSplitter().feed(data + b"\n")) == [Event(b"", b"\n".join([b"x"] * MOST_LINES))]


def test_a_relayed_event_of_too_many_lines_ends_the_stream() -> None:
    relay = EventRelay(CHAT, lambda data: None, lambda relay, event, is_only_usage: event)
    with pytest.raises(CutShort, match=f"longer than {MOST_LINES} lines"):
        relay.receive(b"data: 1\n" * (2 * MOST_LINES + 1) + b"\n")


@pytest.mark.parametrize("before", [b"\n" * 1000, b"\r\n" * 1000, b": ping\n\n" * 1000, b"\n\r\r\n"])
@pytest.mark.parametrize("piece_bytes", [1, 2, 1000])
def test_empty_lines_and_comments_before_an_event_are_nothing(before: bytes, piece_bytes: int) -> None:
    data = before + b"event: a\ndata: b\n\n"
    splitter = EventSplitter()
    pieces = (data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes))
    assert [event for piece in pieces for event in splitter.feed(piece)] == [Event(b"a", b"b")]
