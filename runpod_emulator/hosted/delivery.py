"""How an answer leaves: at the provider's speed, or the way its fate wants it: garbled, slow, cut, or not at all."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterable

from aiohttp import web

from runpod_emulator.hosted.chat import Event, sse
from runpod_emulator.hosted.faults import Fate
from runpod_emulator.hosted.meter import Meter
from runpod_emulator.hosted.settings import HostedSettings

GARBAGE = (
    b"<html><body>502 Bad Gateway</body></html>",
    b'{"id": "chatcmpl-1", "choices": [{"ind',
    b"",
    b'{"unexpected": true}',
    b"\xff\xfe\x00garbage\x80",
    b"null",
)
MOST_BYTES_AT_ONCE = 16_384
SLOW_STEP_SECONDS = 0.05
JSON, EVENTS = "application/json", "text/event-stream"


class CutOff(Exception):
    """The connection has been ended as the fault wanted it."""


class Delivery:
    """One answer on one connection. `generated`: tokens so far, for the bill."""

    def __init__(self, request: web.Request, settings: HostedSettings, meter: Meter, fate: Fate) -> None:
        self.generated = 0
        self._request = request
        self._settings = settings
        self._meter = meter
        self._fate = fate
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time() + settings.ttft_seconds + fate.faults.extra_ttft_seconds
        self._response = web.StreamResponse()
        self._bytes_left: float = float("inf")
        self._events_left: float = float("inf")

    async def plain(self, body: bytes, tokens: int, headers: dict[str, str]) -> web.StreamResponse:
        """Waits until all tokens are generated, then sends the document. Raises CutOff."""
        try:
            await self._until(tokens)
        finally:
            self.generated = min(tokens, self._generated_by_now())
        if self._fate.kind == "garbage":
            body = garbage(self._fate)
        self._plan_cut([(tokens, body)])
        if not (self._fate.kind == "cut" and self._fate.faults.cut == "clean"):
            self._response.content_length = len(body)
        await self._begin(JSON, headers)
        await self._send(body)
        return await self._end()

    async def stream(self, events: Iterable[Event], headers: dict[str, str]) -> web.StreamResponse:
        """Sends each event when its token is due; those that are overdue leave together. Raises CutOff."""
        if self._fate.kind == "cut":
            events = list(events)
            self._plan_cut(events)
        if self._fate.kind == "garbage":
            events = garbled(events, self._fate)
        await self._until(0)
        await self._begin(EVENTS, headers | {"Cache-Control": "no-cache"})
        waiting: list[bytes] = []
        for count, event in events:
            if self._seconds_to(count) > 0 or sum(map(len, waiting)) > MOST_BYTES_AT_ONCE:
                await self._send_events(waiting)
                waiting = []
                await self._until(count)
            waiting.append(event)
            self.generated = count
        await self._send_events(waiting)
        return await self._end()

    async def _send_events(self, events: list[bytes]) -> None:
        is_cut = len(events) > self._events_left
        if is_cut:
            events = events[: int(self._events_left)]
        self._events_left -= len(events)
        self._meter.counts["events_out"] += len(events)
        await self._send(b"".join(events))
        if is_cut:
            await self._cut()

    async def _send(self, data: bytes) -> None:
        is_cut = len(data) >= self._bytes_left
        if is_cut:
            data = data[: int(self._bytes_left)]
        self._bytes_left -= len(data)
        self._meter.counts["bytes_out"] += len(data)
        if self._fate.kind == "slow":
            await self._trickle(data)
        elif data:
            await self._response.write(data)
        if is_cut:
            await self._cut()

    async def _trickle(self, data: bytes) -> None:
        step = max(1, int(self._fate.faults.slow_bytes_per_second * SLOW_STEP_SECONDS))
        for start in range(0, len(data), step):
            await self._response.write(data[start : start + step])
            await asyncio.sleep(SLOW_STEP_SECONDS)

    def _plan_cut(self, events: list[Event]) -> None:
        if self._fate.kind != "cut":
            return
        faults = self._fate.faults
        if faults.cut_after_bytes is not None:
            self._bytes_left = faults.cut_after_bytes
        elif faults.cut_after_events is not None and len(events) > 1:
            self._events_left = faults.cut_after_events
        else:
            self._bytes_left = int(self._fate.roll * sum(len(event) for _, event in events))

    async def _cut(self) -> None:
        how = self._fate.faults.cut
        if how == "stall":
            await asyncio.Event().wait()  # ends by the client's leaving
        if how == "error":
            error = {"message": "The server had an error while processing your request.", "type": "server_error"}
            await self._response.write(b"\n\n" + sse({"error": error | {"param": None, "code": None}}))
        if how in ("clean", "error"):
            await self._end()
        else:
            end_connection(self._request, reset=how == "reset")
        raise CutOff

    async def _begin(self, kind: str, headers: dict[str, str]) -> None:
        self._response.content_type = kind
        self._response.headers.update(headers)
        self._meter.statuses[200] += 1
        await self._response.prepare(self._request)

    async def _end(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response

    async def _until(self, count: int) -> None:
        if (seconds := self._seconds_to(count)) > 0:
            await asyncio.sleep(seconds)

    def _seconds_to(self, count: int) -> float:
        rate = self._settings.tokens_per_second
        due = self._start + (max(0, count - 1) / rate if rate else 0)
        return due - self._loop.time()

    def _generated_by_now(self) -> int:
        seconds = self._loop.time() - self._start
        if seconds < 0:
            return 0
        rate = self._settings.tokens_per_second
        return 2**62 if rate is None else 1 + int(seconds * rate + 1e-6)


def garbage(fate: Fate) -> bytes:
    """What comes instead of an answer."""
    return GARBAGE[int(fate.roll * len(GARBAGE))]


def garbled(events: Iterable[Event], fate: Fate) -> Iterable[Event]:
    """Half of the time nothing but garbage; else an event of garbage after the second, and all others."""
    if fate.roll < 0.5:
        yield 0, garbage(fate)
        return
    for number, event in enumerate(events):
        if number == 2:
            yield event[0], b"data: " + garbage(fate) + b"\n\n"
        yield event


def end_connection(request: web.Request, *, reset: bool) -> None:
    """Closes it after what has been written, or resets it at once."""
    if request.transport is None:
        return
    if not reset:
        request.transport.close()
        return
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
