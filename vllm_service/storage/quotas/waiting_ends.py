"""The ends of reservations that could not be sent: they wait in memory for Redis, and are sent in rounds."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from vllm_service.errors import StorageRefused, StorageUnavailable

log = logging.getLogger(__name__)
#: Between two rounds.
RETRY_SECONDS = 0.5
#: The most ends that wait.
MAX_WAITING = 100_000
#: How many are sent at once.
ROUND = 1_000
#: How long the end of the process waits for them.
CLOSE_SECONDS = 3.0


class Ending(Protocol):
    """A reservation as its end needs it."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The KEYS of end.lua."""
        ...

    def arguments(self, how: str, tokens: int, picousd: int) -> list[str | int]:
        """Returns the ARGV of end.lua."""
        ...


class End(NamedTuple):
    """One end: the arguments of RedisQuotas.end."""

    reservation: Ending
    how: str
    tokens: int
    picousd: int


class WaitingEnds:
    """Sends ends again until Redis has taken or refused them. One that fails goes behind the others.

    send: sends one end. Raises StorageUnavailable, with a cause if the end may have arrived, and StorageRefused.
    """

    def __init__(self, send: Callable[[End], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: deque[End] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._refused = 0

    def __len__(self) -> int:
        """The number of ends that wait."""
        return len(self._waiting)

    def add(self, end: End, error: StorageUnavailable) -> None:
        """Keeps an end that could not be sent because of this error."""
        if len(self._waiting) >= MAX_WAITING:
            log.error("a reservation's end is lost: %d wait for Redis already", len(self._waiting))
            return
        if not self._waiting:
            log.warning("ends of reservations wait until Redis takes them: %s", error.message)
        self._waiting.append(_again(end, error))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_later(), name="reservations that wait for Redis")

    def refused(self, error: StorageRefused) -> None:
        """Counts and logs an end that Redis will never take."""
        self._refused += 1
        log.error("the end of a reservation is lost, %d since the start: %s", self._refused, error.message)

    async def close(self) -> None:
        """Sends what waits, if Redis answers in time. The expiry of leases gives back the others."""
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._waiting and await self._round():
                    pass
        except TimeoutError:
            pass
        if self._waiting:
            log.error("the ends of %d reservations are lost: Redis did not take them in time", len(self._waiting))

    async def _send_later(self) -> None:
        while self._waiting:
            if not await self._round():
                await asyncio.sleep(RETRY_SECONDS)

    async def _round(self) -> bool:
        """Sends some of the ends; returns whether Redis has taken or refused all of them.

        Each is removed only after it was sent, so that a cancellation or a failure loses none.
        """
        ends = [self._waiting[position] for position in range(min(len(self._waiting), ROUND))]
        results = await asyncio.gather(*map(self._send, ends), return_exceptions=True)
        for end, result in zip(ends, results, strict=True):
            self._waiting.popleft()
            if isinstance(result, StorageUnavailable):
                self._waiting.append(_again(end, result))
            elif isinstance(result, StorageRefused):
                self.refused(result)
            elif isinstance(result, BaseException):
                raise result
        return not any(isinstance(result, StorageUnavailable) for result in results)


def _again(end: End, error: StorageUnavailable) -> End:
    """Returns the end as it is sent next time. A cause means that it may have arrived: only what is open is booked."""
    return end._replace(how="settle again") if end.how == "settle" and error.__cause__ is not None else end
