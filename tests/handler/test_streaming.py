"""Events stay whole and characters stay whole, wherever the bytes are cut and whenever the consumer comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.errors import EngineError, StreamBroken
from handler.streaming import MAX_POST_BYTES, Pace, checked, coalesce, cut, posted_size, reported_error, whole_events
from tests.waiting import turns

T = TypeVar("T")
EVENTS = ['data: {"text": "👨‍👩‍👧‍👦 é"}\n\n', "event: x\ndata: 1\n\n", "data: [DONE]\n\n"]


async def each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item


async def all_of(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


def event_of(text: str) -> str:
    return f"data: {json.dumps(text)}\n\n"


def raw_event_of(text: str) -> str:
    """The event as vLLM writes it: characters as they are."""
    return f"data: {json.dumps({'text': text}, ensure_ascii=False)}\n\n"


def json_size(text: str) -> int:
    """The bytes of the text inside a JSON string."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


@given(st.lists(st.integers(min_value=0, max_value=100), max_size=20))
def test_events_come_out_whole_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    data = "".join(EVENTS).encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert asyncio.run(all_of(whole_events(each(pieces)))) == EVENTS


def test_the_size_of_a_posted_event_is_that_of_its_json_string() -> None:
    for event in [*EVENTS, 'data: {"text": "\\"quoted\\" \\\\ back"}\n\n']:
        assert posted_size(event) == json_size(event)


async def test_windows_line_ends_separate_events_too_also_when_cut_between_cr_and_lf() -> None:
    pieces = [b"data: 1\r\n\r", b"\ndata: 2\r", b"\n\r\n"]
    assert await all_of(whole_events(each(pieces))) == ["data: 1\n\n", "data: 2\n\n"]


async def test_a_stream_that_ends_inside_an_event_is_an_error_not_an_end() -> None:
    events = whole_events(each([b"data: 1\n\ndata: 2"]))
    assert await anext(events) == "data: 1\n\n"
    with pytest.raises(StreamBroken, match="middle of an event"):
        await anext(events)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ('data: {"error": {"message": "too long", "code": 400}}\n\n', 400),
        ('data: {"error": {"message": "boom", "code": "internal"}}\n\n', 500),
        ('event: error\ndata: {"type": "error", "error": {"message": "overloaded", "code": 503}}\n\n', 503),
        ('event: error\ndata: {"type": "error", "message": "boom", "code": "server_error", "x": "error"}\n\n', 500),
        ('data: {"type": "response.failed", "response": {"error": {"message": "boom", "code": "x"}}}\n\n', 500),
    ],
)
def test_an_error_event_of_any_api_is_recognised(event: str, status: int) -> None:
    error = reported_error(event)
    assert error is not None
    assert error.status == status


@pytest.mark.parametrize(
    "event",
    [
        'data: {"choices": [{"delta": {"content": "\\"error\\": {}"}}]}\n\n',
        'data: {"type": "response.created", "response": {"error": null}}\n\n',
        'data: {"error": null}\n\n',
        'data: "error"\n\n',
        'data: ["error"]\n\n',
        'data: {"error" is not json\n\n',
        "data: [DONE]\n\n",
    ],
)
def test_an_event_that_only_mentions_errors_is_none(event: str) -> None:
    assert reported_error(event) is None


async def test_the_error_event_is_passed_on_before_its_error_is_raised() -> None:
    events = checked(each(["data: 1\n\n", 'data: {"error": {"message": "boom", "code": 500}}\n\n', "data: 3\n\n"]))
    assert await anext(events) == "data: 1\n\n"
    assert "boom" in await anext(events)
    with pytest.raises(EngineError, match="boom"):
        await anext(events)


async def test_the_first_event_leaves_at_once_and_the_rest_goes_as_the_next_piece() -> None:
    first_was_taken = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "a\n\n"
        await first_was_taken.wait()
        for event in ("b\n\n", "c\n\n", "d\n\n"):
            yield event

    pieces = coalesce(source())
    assert await anext(pieces) == "a\n\n"
    first_was_taken.set()
    await turns(2)
    assert await anext(pieces) == "b\n\nc\n\nd\n\n"
    with pytest.raises(StopAsyncIteration):
        await anext(pieces)


@given(
    st.lists(st.text(max_size=90).map(event_of), max_size=30) | st.lists(st.text(max_size=90).map(raw_event_of)),
    st.integers(6, 200),
)
def test_coalescing_keeps_every_event_in_order_and_every_piece_within_the_limit(events: list[str], limit: int) -> None:
    pieces = asyncio.run(all_of(coalesce(each(events), limit)))
    assert "".join(pieces) == "".join(events)
    assert all(json_size(piece) <= limit for piece in pieces)


@given(st.lists(st.text(max_size=90).map(event_of), max_size=30))
def test_events_that_fit_are_never_cut(events: list[str]) -> None:
    limit = max((json_size(event) for event in events), default=6)
    for piece in asyncio.run(all_of(coalesce(each(events), limit))):
        assert piece.endswith("\n\n")


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_500_000,
        '"' * 700_000,
        "\\" * 700_000,
        "🙂" * 400_000,
        "漢字" * 300_000,
        "e\u0301" * 500_000,
        "👩\u200d🚀 " * 200_000,
    ],
    ids=["ascii", "quotes", "backslashes", "emoji", "no ascii", "composed", "joined emoji"],
)
async def test_one_event_above_the_posts_limit_goes_in_a_few_posts_of_whole_characters(text: str) -> None:
    event = raw_event_of(text)
    pieces = await all_of(coalesce(each(["data: 1\n\n", event, "data: [DONE]\n\n"]), pace=Pace(0, 0)))
    assert "".join(pieces) == f"data: 1\n\n{event}data: [DONE]\n\n"
    assert all(json_size(piece) <= MAX_POST_BYTES for piece in pieces)
    assert len(pieces) <= 2 + json_size(event) // (MAX_POST_BYTES // 2)
    assert b"".join(piece.encode() for piece in pieces).decode() == "".join(pieces)


def test_a_cut_is_between_two_ascii_characters_and_beside_no_line_end() -> None:
    event = raw_event_of("é\n🙂a" * 300)
    parts = list(cut(event, 60))
    assert "".join(parts) == event
    for before, after in pairwise(parts):
        assert (before[-1] + after[0]).isascii()
        assert "\n" not in before[-1] + after[0]


async def test_an_error_of_the_source_comes_after_everything_before_it() -> None:
    async def source() -> AsyncIterator[str]:
        yield "a\n\n"
        raise StreamBroken("cut")

    pieces = coalesce(source())
    assert await anext(pieces) == "a\n\n"
    with pytest.raises(StreamBroken):
        await anext(pieces)


async def test_leaving_early_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        try:
            yield "a\n\n"
            await asyncio.Event().wait()
        finally:
            closed.set()

    pieces = coalesce(source())
    assert await anext(pieces) == "a\n\n"
    await pieces.aclose()
    assert closed.is_set()


async def test_after_the_burst_events_wait_for_company_but_the_end_waits_for_nothing() -> None:
    arrive = asyncio.Event()

    async def source() -> AsyncIterator[str]:
        for number in range(4):
            yield f"{number}\n\n"
            await asyncio.sleep(0)
        yield "4\n\n"
        await arrive.wait()
        yield "5\n\n"

    pieces = coalesce(source(), pace=Pace(burst=3, shortest_interval_seconds=60))
    burst = [await anext(pieces) for _ in range(3)]
    assert burst[0] == "0\n\n"
    arrive.set()
    rest = [piece async for piece in pieces]
    assert len(rest) <= 1, "what comes after the burst is one piece, sent when the stream ends"
    assert "".join(burst + rest) == "".join(f"{number}\n\n" for number in range(6))


async def test_many_streams_post_less_often_each_and_count_themselves_out_again() -> None:
    pace = Pace(shortest_interval_seconds=0.04, posts_per_second=100)
    assert pace.interval_seconds == 0.04
    streams = [coalesce(each(["a\n\n", "b\n\n"]), pace=pace) for _ in range(10)]
    for stream in streams:
        await anext(stream)
    assert pace.interval_seconds == 10 / 100
    for stream in streams:
        await stream.aclose()
    assert pace.streams == 0


async def test_a_slow_post_stops_the_reading_until_there_is_room_and_loses_nothing() -> None:
    event, count = event_of("x" * 90), 1_000
    read = 0

    async def events() -> AsyncIterator[str]:
        nonlocal read
        for _ in range(count):
            read += 1
            yield event

    pieces = coalesce(events(), max_bytes=1_000, pace=Pace(shortest_interval_seconds=0))
    taken = [await anext(pieces)]
    await turns(10)
    assert read < 60, "four posts of 1,000 bytes are read ahead"
    taken += [piece async for piece in pieces]
    assert "".join(taken) == event * count
