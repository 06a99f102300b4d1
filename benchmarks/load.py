"""A closed-loop load: concurrent callers with one request at a time each, and the times of their calls."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True)
class Call:
    """The times of one call, from the sending of its request."""

    #: To the first content.
    ttft_seconds: float
    #: To the end of the answer.
    total_seconds: float


@dataclass(frozen=True)
class Round:
    """The calls of one round of load."""

    calls: tuple[Call, ...]
    concurrent: int

    @property
    def calls_per_second(self) -> float:
        """Returns the throughput: callers divided by the mean time of a call (Little's law for a closed loop)."""
        # Calls divided by the round's duration would count its end, in which the callers finish one by one: up to one
        # call's length, and less where the callers happen to run in step.
        return self.concurrent / statistics.fmean(call.total_seconds for call in self.calls)

    def ttft_ms(self, quantile: float) -> float:
        """Returns the TTFT at a quantile, in milliseconds."""
        return quantile_of([call.ttft_seconds for call in self.calls], quantile) * 1000


def quantile_of(values: list[float], quantile: float) -> float:
    """Returns the value at a quantile (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def median(values: list[float]) -> float:
    """Returns the median."""
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
    """Returns a function that calls an OpenAI chat route once. It raises for an answer that is not complete."""

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
