"""A worker's output as server-sent events. Each event's id is its time, from which a reader can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from aiohttp import web

from runpod_emulator.api.rest.door import QUOTA_HEADERS
from runpod_emulator.endpoint.output import MOST_LINES, LogLine, WorkerOutput
from runpod_emulator.errors import Unprocessable

#: The former lines that a reader gets without `?tail=` (RunPod's schema of 2026-08).
TAIL = 100
#: A comment is sent after so long without a line, so that a reader that has left is noticed.
PAUSE_SECONDS = 15.0
SOURCES = ("container", "system")
HEADERS = {"Cache-Control": "no-cache", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


async def stream_logs(request: web.Request, output: WorkerOutput) -> web.StreamResponse:
    """Answers the lines that `source`, `tail`, `since` and Last-Event-ID ask for. Raises Unprocessable."""
    sources = _sources(request)
    number = _first_line(request, output)
    response = web.StreamResponse(headers=HEADERS | request.get(QUOTA_HEADERS, {}))
    response.content_type = "text/event-stream"
    response.charset = "utf-8"
    await response.prepare(request)
    async for lines in output.follow(number, PAUSE_SECONDS):
        await response.write(_events(line for line in lines if line.source in sources) or b": no line\n\n")
    await response.write_eof()
    return response


def _events(lines: Iterable[LogLine]) -> bytes:
    return "".join(map(_event, lines)).encode()


def _event(line: LogLine) -> str:
    moment = _text(line.at_us)
    return f"id: {moment}\ndata: {json.dumps({'ts': moment, 'source': line.source, 'line': line.text})}\n\n"


def _text(at_us: int) -> str:
    return (EPOCH + at_us * MICROSECOND).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _sources(request: web.Request) -> tuple[str, ...]:
    source = request.query.get("source")
    if source is None:
        return SOURCES
    if source not in SOURCES:
        raise Unprocessable("Request validation failed.", [f"source: expected one of {', '.join(SOURCES)}"])
    return (source,)


def _first_line(request: web.Request, output: WorkerOutput) -> int:
    if (seen := request.headers.get("Last-Event-ID")) is not None:
        return output.since(_microseconds("Last-Event-ID", seen) + 1)
    if (since := request.query.get("since")) is not None:
        return output.since(_microseconds("since", since))
    tail = request.query.get("tail", str(TAIL))
    if not (tail.isascii() and tail.isdecimal() and len(tail) <= 4 and int(tail) <= MOST_LINES):
        raise Unprocessable("Request validation failed.", [f"tail: expected a whole number from 0 to {MOST_LINES}"])
    return output.tail(int(tail))


def _microseconds(name: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
        return (moment - EPOCH) // MICROSECOND
    except (ValueError, TypeError, OverflowError):  # TypeError: it has no offset
        raise Unprocessable("Request validation failed.", [f"{name}: expected a time of RFC 3339"]) from None
