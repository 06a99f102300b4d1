"""Follows the logs of workers. A stream that ends is opened again where it ended, without lines that were there."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from vllm_service.runpod.rest_api import RestApi, endpoint_path
from vllm_service.runpod.rest_errors import RestError

#: RunPod's own default, and its most (REST v2's schema of 2026-08).
DEFAULT_TAIL = 100
MOST_TAIL = 5000
#: A stream without a new line for so long has sent what there was before.
QUIET_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
#: Of the lines that are remembered, to know them again after a stream was opened anew.
_REMEMBERED = 1000
#: Statuses after which no later attempt can succeed.
_FINAL = (400, 401, 403, 404, 410, 422, 501)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a worker's log, as RunPod has it: it may hold secrets and signs that steer a terminal."""

    worker_id: str
    #: `container` or `system`.
    source: str
    #: RFC 3339, or empty.
    time: str
    text: str


class WorkerLog:
    """One worker's log."""

    def __init__(
        self,
        api: RestApi,
        endpoint_id: str,
        worker_id: str,
        *,
        tail: int = DEFAULT_TAIL,
        source: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.worker_id = worker_id
        self._api = api
        self._path = f"{endpoint_path(endpoint_id)}/workers/{quote(worker_id, safe='')}/logs"
        self._query: dict[str, str | int] = {"tail": max(0, min(tail, MOST_TAIL))}
        if source is not None:
            self._query["source"] = source
        self._sleep = sleep
        self._last_time = ""
        #: The time of the last line before the stream was opened the last time.
        self._resumed_at = ""
        self._recent: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)

    async def written(self, quiet_seconds: float = QUIET_SECONDS) -> AsyncGenerator[LogLine, None]:
        """Yields what is in the log, until there is no new line for a while. Raises RestError."""
        async with aclosing(self._once()) as lines:
            while True:
                try:
                    async with asyncio.timeout(quiet_seconds):
                        line = await anext(lines, None)
                except TimeoutError:
                    return
                if line is None:
                    return
                yield line

    async def follow(self) -> AsyncGenerator[LogLine, None]:
        """Yields lines until the worker is gone.

        Raises RestError where no later attempt can succeed, which includes a worker that was never there.
        """
        pause = FIRST_PAUSE_SECONDS
        was_there = False
        while True:
            try:
                async with aclosing(self._once()) as lines:
                    async for line in lines:
                        pause = FIRST_PAUSE_SECONDS
                        was_there = True
                        yield line
                was_there = True
            except RestError as error:
                if error.status == 404 and was_there:
                    return
                if error.status in _FINAL:
                    raise
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _once(self) -> AsyncGenerator[LogLine, None]:
        known = frozenset(self._recent)
        async with aclosing(self._api.events(self._path, self._next_query())) as events:
            async for event in events:
                line = self._line(event)
                # Only what is as old as the last line can be a repetition.
                if line is None or ((line.time, line.text) in known and line.time <= self._resumed_at):
                    continue
                self._recent.append((line.time, line.text))
                self._last_time = line.time or self._last_time
                yield line

    def _next_query(self) -> Mapping[str, str | int]:
        self._resumed_at = self._last_time
        return {**self._query, "since": self._last_time} if self._last_time else self._query

    def _line(self, event: Mapping[str, Any]) -> LogLine | None:
        text, time, source = event.get("line"), event.get("ts"), event.get("source")
        if not isinstance(text, str):
            return None
        return LogLine(
            self.worker_id,
            source if source in ("container", "system") else "",
            time if isinstance(time, str) and time.isascii() and time.isprintable() and len(time) <= 64 else "",
            text,
        )
