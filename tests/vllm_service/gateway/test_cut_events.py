"""Where the network cuts a stream changes nothing of what the caller gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import product

import pytest

from handler.streaming import whole_events
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import CHAT

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%d"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n'


def passed_on(pieces: Sequence[bytes]) -> bytes:
    sent: list[bytes] = []
    relay = EventRelay(CHAT, sent.append, lambda relay, event, is_only_usage: event)
    for piece in pieces:
        relay.receive(piece)
    return b"".join(sent)


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("end", [b":z\n\n", b":z\r\n\r\n", b":z\r\r:"])
def test_any_line_breaks_cut_anywhere_are_passed_on_as_they_are(end: bytes) -> None:
    """All texts of seven characters: an end of an event that was overlooked, or seen too early, would show."""
    for signs in product((b":", b"\r", b"\n"), repeat=7):
        data = b"".join((b":a", *signs, end))
        whole = data.removesuffix(b":") if end.endswith(b":") else data
        assert passed_on(bytewise(data)) == whole
        assert all(passed_on([data[:at], data[at:]]) == whole for at in range(1, len(data)))


async def test_the_worker_finds_the_same_events_however_they_are_cut() -> None:
    async def found(pieces: Sequence[bytes]) -> list[str]:
        return [event async for event in whole_events(each(pieces))]

    for signs in product((b"a", b"\r\n", b"\n"), repeat=6):
        data = b"".join((*signs, b"z\n\n"))
        assert await found(bytewise(data)) == await found([data])


async def each(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("usage_at", [0, 5, 40, 79])
@pytest.mark.parametrize("together", [1, 7, 80])
def test_an_event_that_is_read_among_many_that_are_not_is_found(usage_at: int, together: int) -> None:
    events = [CHUNK % number for number in range(80)]
    events[usage_at] = USAGE
    seen: list[tuple[bytes, int]] = []

    def finish(relay: EventRelay, event: bytes, is_only_usage: bool) -> bytes:
        seen.append((event, relay.events))
        return b"data: USAGE\n\n"

    sent: list[bytes] = []
    relay = EventRelay(CHAT, sent.append, finish)
    for start in range(0, 80, together):
        relay.receive(b"".join(events[start : start + together]))
    events[usage_at] = b"data: USAGE\n\n"
    assert b"".join(sent) == b"".join(events)
    assert [event for event, _ in seen] == [USAGE]
    assert relay.events == 80
    assert relay.usage is not None
