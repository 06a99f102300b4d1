"""A closed-loop load: so many callers at the same time, each asking again when it is answered; what each call took."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True)
class Call:
    """Seconds from sending the request to the first content and to the end of the answer."""

    ttft_seconds: float
    total_seconds: float


@dataclass(frozen=True)
class Round:
    """What one round of load gave."""

    calls: tuple[Call, ...]
    concurrent: int

    @property
    def calls_per_second(self) -> float:
        """Throughput: callers over the mean time of a call, as in any closed loop without pauses (Little's law).

        Calls over the clock's time would count the round's ragged end, when the last callers finish one by one: against
        callers that happen to march in step it costs up to one call's length, whatever lies between.
        """
        return self.concurrent / statistics.fmean(call.total_seconds for call in self.calls)

    def ttft_ms(self, quantile: float) -> float:
        """The TTFT at a quantile, in milliseconds."""
        return quantile_of([call.ttft_seconds for call in self.calls], quantile) * 1000


def quantile_of(values: list[float], quantile: float) -> float:
    """The value at a quantile (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


async def closed_loop(call: Callable[[], Awaitable[Call]], concurrent: int, calls: int) -> Round:
    """Makes `calls` calls, `concurrent` at a time."""
    remaining = iter(range(calls))
    done: list[Call] = []

    async def caller() -> None:
        for _ in remaining:
            done.append(await call())

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrent):
            group.create_task(caller())
    return Round(tuple(done), concurrent)


def chat(session: aiohttp.ClientSession, url: str, body: bytes) -> Callable[[], Awaitable[Call]]:
    """A call of an OpenAI chat route; raises for any answer that is not complete."""

    async def call() -> Call:
        start = time.perf_counter()
        first = 0.0
        tail = b""
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
            response.raise_for_status()
            is_stream = response.content_type == "text/event-stream"
            async for piece in response.content.iter_any():
                first = first or time.perf_counter() - start
                tail = (tail + piece)[-64:]
        if is_stream and b"data: [DONE]" not in tail:
            raise RuntimeError("a stream ended without [DONE]")
        return Call(first, time.perf_counter() - start)

    return call
