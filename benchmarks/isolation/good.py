"""The good organisation: 100 requests a second at set times, whatever becomes of those before; and the health probe."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.isolation.wire import Address, Connection, chat_body, connect, get, post
from benchmarks.load import quantile_of

PER_SECOND = 100
#: Its addresses: a gateway lets by so many requests a second of one address, 50 unless it is configured.
SOURCES = tuple(f"127.0.1.{number}" for number in range(1, 9))
PROBE_SOURCE = "127.0.2.1"
PATIENCE_SECONDS = 10.0
PROBES_PER_SECOND = 10


@dataclass
class Answers:
    """The requests of one stretch of time."""

    seconds: list[float] = field(default_factory=list)
    #: What became of those that were not answered: a status, or the name of an error.
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """Returns the number of requests."""
        return len(self.seconds) + self.failures.total()

    @property
    def answered_share(self) -> float:
        """Returns the share that was answered with 200 and a whole answer."""
        return len(self.seconds) / max(1, self.sent)

    def quantile_ms(self, quantile: float) -> float | None:
        """Returns a quantile of the answered ones, from the time at which each was due; None if none was answered."""
        return round(quantile_of(self.seconds, quantile) * 1000, 1) if self.seconds else None


class GoodOrganisation:
    """Sends requests of which every third is streamed. Keeps connections, as client libraries do."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self._addresses = [Address.of(url, source) for source in SOURCES]
        self._keys = keys
        self._idle: list[list[Connection]] = [[] for _ in SOURCES]
        self._number = 0

    async def run(self, seconds: float, per_second: float = PER_SECOND) -> Answers:
        """Sends for so long, and waits for the answers."""
        answers = Answers()
        loop = asyncio.get_running_loop()
        begun = loop.time()
        tasks = []
        for number in range(int(seconds * per_second)):
            due = begun + number / per_second
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._one(answers, due)))
        await asyncio.gather(*tasks)
        return answers

    async def _one(self, answers: Answers, due: float) -> None:
        """Sends one request; its time counts from when it was due, so that a stall counts for all that it delays."""
        self._number += 1
        number = self._number
        place = number % len(SOURCES)
        is_stream = number % 3 == 0
        body = chat_body(f"good {number} {time.time_ns()}", stream=is_stream)
        request = post(self._keys[number % len(self._keys)], body)
        idle = self._idle[place]
        connection = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                connection = idle.pop() if idle else await connect(self._addresses[place])
                status, body = await connection.ask(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            answers.failures[type(error).__name__] += 1
            if connection is not None:
                connection.close()
            return
        is_whole = b"[DONE]" in body if is_stream else b'"choices"' in body
        if status == 200 and is_whole:
            answers.seconds.append(asyncio.get_running_loop().time() - due)
        else:
            answers.failures[str(status) if status != 200 else "broken"] += 1
        if connection.is_kept:
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Closes the idle connections."""
        for idle in self._idle:
            for connection in idle:
                connection.close()
            idle.clear()


@dataclass
class Probe:
    """Asks /health/live ten times a second, each time on a new connection as an orchestrator does."""

    url: str
    slowest_seconds: float = 0.0
    failures: int = 0

    async def run(self) -> None:
        """Probes until it is cancelled."""
        address = Address.of(self.url, PROBE_SOURCE)
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    connection = await connect(address)
                    status, _ = await connection.ask(get("/health/live"))
                connection.close()
                self.failures += status != 200
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                self.failures += 1
            self.slowest_seconds = max(self.slowest_seconds, loop.time() - begun)
            await asyncio.sleep(1 / PROBES_PER_SECOND)


@asynccontextmanager
async def probing(probe: Probe) -> AsyncIterator[None]:
    """Probes while the body runs."""
    task = asyncio.create_task(probe.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
