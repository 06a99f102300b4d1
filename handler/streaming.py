"""Server-sent events for RunPod's stream: joined while the post before is under way, cut if too long. Pure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from handler.errors import EngineError, StreamBroken

# An event that has not ended is held in memory. vLLM's longest, an image or all of an answer, have some MB.
LONGEST_EVENT_BYTES = 8 * 2**20
# RunPod takes at most 1 MB per posted chunk (docs/runpod.md). The rest is room for the JSON around the text.
MAX_POST_BYTES = 990_000
# One character takes at most so many bytes in a JSON string: a control character is written as six.
WIDEST_CHARACTER_BYTES = 6
# So much is read ahead of a slow post. The rest waits in the engine's answer, which is bounded.
PIECES_AHEAD = 4
# So far back a cut looks for a better place than the last one possible.
CUT_LOOKS_BACK = 4096


async def whole_events(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yields the events in a stream of bytes that may be cut anywhere, each with its closing empty line.

    Raises StreamBroken when the bytes end inside an event, and for one that is longer than LONGEST_EVENT_BYTES.
    """
    cutter = _EventCutter()
    async for piece in pieces:
        for event in cutter.feed(piece):
            if event.strip():
                # An event ends at an ASCII newline, so a cut at its end never splits a character of several bytes.
                yield event.decode("utf-8") + "\n\n"
    if cutter.rest.strip():
        raise StreamBroken("the engine's stream ended in the middle of an event")


class _EventCutter:
    """Cuts bytes, which come in pieces of any size, where events end."""

    def __init__(self) -> None:
        #: What has come of an event, with \\n for each line break. It grows in place: small pieces would cost O(n^2).
        self.rest = bytearray()
        self._half_break = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Returns the events that end in this piece."""
        text = self._half_break + piece
        self._half_break = b"\r" if text.endswith(b"\r") else b""
        text = text.removesuffix(self._half_break).replace(b"\r\n", b"\n")
        if b"\n\n" in text or (self.rest.endswith(b"\n") and text.startswith(b"\n")):
            *events, rest = (bytes(self.rest) + text).split(b"\n\n")
            self.rest = bytearray(rest)
            return events
        self.rest += text
        if len(self.rest) > LONGEST_EVENT_BYTES:
            raise StreamBroken(f"the engine sent an event of more than {LONGEST_EVENT_BYTES} bytes")
        return []


async def checked(events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Passes every event on; raises EngineError after one that reports an error."""
    async for event in events:
        yield event
        if error := reported_error(event):
            raise error


def reported_error(event: str) -> EngineError | None:
    """Returns the error that an event reports, in any of vLLM's APIs (chat, completions, responses, messages)."""
    if '"error"' not in event:
        return None
    data = "\n".join(line[5:].strip() for line in event.splitlines() if line.startswith("data:"))
    try:
        document = json.loads(data)
    except json.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    error = document.get("error") or _failed_response(document)
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    return EngineError(code if isinstance(code, int) and 400 <= code < 600 else 500, error)


def error_event(document: dict[str, Any]) -> str:
    """Returns the event that ends a failed stream, in vLLM's own form."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def _failed_response(document: dict[str, Any]) -> object:
    """Returns the error of a `response.failed` or a bare `error` event."""
    if document.get("type") == "response.failed":
        return document.get("response", {}).get("error")
    return document if document.get("type") == "error" else None


@dataclass
class Pace:
    """How often the streams of one worker may post. All streams share it; `coalesce` counts itself in and out.

    The first `burst` pieces of a stream, the role and the first token, leave without delay. Each further piece waits
    `shortest_interval_seconds` after the one before. At 100 tokens a second a post then holds four events. With many
    streams the pause grows, so that all together, bursts aside, post at most `posts_per_second`.
    """

    burst: int = 2
    shortest_interval_seconds: float = 0.040
    #: Of all streams. A post costs about 0.2 ms of CPU here and on the way (docs/benchmarks.md): 125 a second and core
    #: leave the rest to tokens.
    posts_per_second: float = field(default_factory=lambda: 125.0 * min(len(os.sched_getaffinity(0)), 8))
    #: How many streams there are now.
    streams: int = 0

    @property
    def interval_seconds(self) -> float:
        """The pause between two posts of one stream, as things stand now."""
        return max(self.shortest_interval_seconds, self.streams / self.posts_per_second)


async def coalesce(
    events: AsyncIterator[str], max_bytes: int = MAX_POST_BYTES, pace: Pace | None = None
) -> AsyncGenerator[str, None]:
    """Yields the first event at once, then, at each request, everything that has arrived since in one piece.

    A consumer that awaits a post per piece has one post in flight at a time, and as few as the network allows. A piece
    holds at most `max_bytes` bytes as a JSON string. It holds whole events, but for an event that is larger by itself:
    that one is cut, and the pieces in their order, joined, are the stream. An error of `events` is raised after
    everything before it was handed out.
    """
    pace = pace or Pace()
    buffer = _Buffer(pace, max_bytes)
    pump = asyncio.create_task(buffer.fill(events))
    pace.streams += 1
    try:
        while piece := await buffer.take():
            yield piece
        await pump
    finally:
        pace.streams -= 1
        pump.cancel()
        # Its error was raised above, or the consumer has left.
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await pump


def posted_size(event: str) -> int:
    """Returns the bytes of the event inside a JSON string."""
    # Counted rather than encoded, which the post does anyway. In JSON text a quote, a backslash and a line end take one
    # byte more; an event, which is JSON itself, holds no other control character.
    utf8_bytes = len(event) if event.isascii() else len(event.encode())
    return utf8_bytes + event.count('"') + event.count("\\") + event.count("\n")


def cut(event: str, max_bytes: int) -> Iterator[str]:
    """Yields the event in parts of at most `max_bytes` bytes as a JSON string, cut between two ASCII characters.

    There no character is torn, whatever the encoding, and no sign that is composed of several. Only a text without any
    ASCII for `CUT_LOOKS_BACK` characters is cut between two others. No cut is beside a line end, so that no part looks
    like the end of an event that goes on.
    """
    longest = max(1, max_bytes // WIDEST_CHARACTER_BYTES)
    start = 0
    while len(event) - start > longest:
        end = start + longest
        earliest = max(start + 1, end - CUT_LOOKS_BACK)
        end = next((place for place in range(end, earliest, -1) if _may_be_cut(event[place - 1 : place + 1])), end)
        yield event[start:end]
        start = end
    yield event[start:]


def _may_be_cut(neighbours: str) -> bool:
    return neighbours.isascii() and "\n" not in neighbours


class _Buffer:
    """Holds events that have arrived and were not taken yet, or the parts of one that is too large for one piece."""

    def __init__(self, pace: Pace, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: deque[tuple[str, int]] = deque()
        #: The bytes that wait here. While there are enough for the next pieces, no more is read.
        self._bytes = 0
        self._enough = PIECES_AHEAD * max_bytes
        self._reader: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._pace = pace
        self._pieces_taken = 0
        self._last_at = 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    async def fill(self, events: AsyncIterator[str]) -> None:
        try:
            async for event in events:
                if self._bytes > self._enough:
                    await self._until_taken()
                had_none = not self._events
                if (size := posted_size(event)) <= self._max_bytes:
                    self._events.append((event, size))
                    self._bytes += size
                else:  # the parts are counted as they are taken: together they may be longer than the event
                    parts = [(part, posted_size(part)) for part in cut(event, self._max_bytes)]
                    self._events.extend(parts)
                    self._bytes += sum(size for _, size in parts)
                if had_none:
                    self._wake()
        finally:
            self._ended = True
            self._wake()

    async def take(self) -> str:
        """Returns at least one event or part, as many as fit; an empty string when there will be no more."""
        await self._turn()
        taken: list[str] = []
        room = self._max_bytes
        while self._events and (not taken or self._events[0][1] <= room):
            event, size = self._events.popleft()
            taken.append(event)
            room -= size
            self._bytes -= size
        if self._reader and not self._reader.done():
            self._reader.set_result(None)
        return "".join(taken)

    async def _until_taken(self) -> None:
        while self._bytes > self._enough:
            self._reader = self._loop.create_future()
            await self._reader

    async def _turn(self) -> None:
        """Waits for an event, and for the pace, but not after the last event."""
        while not self._ended:
            early = self._last_at + self._pace.interval_seconds - self._loop.time()
            if self._events and (early <= 0 or self._pieces_taken < self._pace.burst):
                break
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(early, self._wake) if self._events else None
            try:
                await self._waiter
            finally:
                if timer:
                    timer.cancel()
        self._pieces_taken += 1
        self._last_at = self._loop.time()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
