"""The isolation benchmark: its attackers attack, its provider misbehaves, its bars find what is missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from benchmarks.isolation.__main__ import Row, measure
from benchmarks.isolation.attack import ATTACKS, SOURCE, attack
from benchmarks.isolation.good import SOURCES, GoodOrganisation
from benchmarks.isolation.provider import FAULTS
from benchmarks.isolation.stack import openings_in
from benchmarks.isolation.strangers import STRANGERS

KEPT = Row("anybody", True, 1000, 100.0, {}, 20.0, 30.0, 20.0, 90.0, 0, 300.0, 250.0, 0, True)


@dataclass
class Heard:
    """What a server was sent, and from where."""

    data: bytes = b""
    sources: frozenset[str] = frozenset()


class _Listener(asyncio.Protocol):
    """One connection."""

    def __init__(self, heard: Heard, answer: bytes, connections: set[_Listener]) -> None:
        self._heard = heard
        self._answer = answer
        self._connections = connections
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)
        self._heard.sources |= {transport.get_extra_info("peername")[0]}

    def data_received(self, data: bytes) -> None:
        if len(self._heard.data) < 1_000_000:
            self._heard.data += data
        self._transport.write(self._answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def close(self) -> None:
        self._transport.abort()


@asynccontextmanager
async def listening(answer: bytes = b"") -> AsyncIterator[tuple[str, Heard]]:
    """A server that keeps the first bytes of each connection, and answers each piece of data."""
    heard = Heard()

    loop = asyncio.get_running_loop()
    connections: set[_Listener] = set()
    server = await loop.create_server(lambda: _Listener(heard, answer, connections), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
        for connection in list(connections):
            connection.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"a hoard of idle connections"}))
async def test_each_attacker_sends_something_with_a_key_or_without_one(name: str) -> None:
    keys = [] if name in STRANGERS else ["vs_of_the_attacker"]
    async with listening() as (url, heard):
        await attack(name, url, keys, 0.5)
    assert heard.sources == {SOURCE}
    assert heard.data
    assert (b"vs_of_the_attacker" in heard.data) == bool(keys)


@pytest.mark.parametrize("word", sorted(FAULTS))
def test_each_fault_of_the_provider_is_provoked_by_an_attacker(word: bytes) -> None:
    source = (Path("benchmarks") / "isolation" / "keyed.py").read_text()
    assert f"attack:{word.decode()}" in source or f'"{word.decode()}")' in source


async def test_good_requests_come_from_addresses_of_their_own_and_failures_are_named() -> None:
    refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    async with listening(refusal) as (url, heard):
        good = GoodOrganisation(url, ["vs_good"])
        answers = await good.run(0.2)
        good.close()
    assert heard.sources <= set(SOURCES)
    assert answers.failures == {"503": 20}
    assert answers.answered_share == 0
    assert answers.quantile_ms(0.99) is None


@pytest.mark.parametrize(
    ("row", "missed"),
    [
        (KEPT, []),
        (replace(KEPT, answered_percent=99.8), ["answered"]),
        (replace(KEPT, p99_ms=90.1), ["p99"]),
        (replace(KEPT, p99_ms=None), ["p99"]),
        (replace(KEPT, breaker_openings=1), ["breaker"]),
        (replace(KEPT, memory_mb=300.1), ["memory"]),
        (replace(KEPT, health_ms=250.1), ["health"]),
        (replace(KEPT, health_failures=1), ["health"]),
        (replace(KEPT, is_alive=False, memory_mb=None), ["memory", "alive"]),
    ],
)
def test_a_bar_that_is_missed_is_named(row: Row, missed: list[str]) -> None:
    assert row.misses == missed


@pytest.mark.parametrize(
    ("line", "openings"),
    [
        ("WARNING x: circuit breaker of hosted, fake: open, was closed: 5 failures in a row", 1),
        ("WARNING x: circuit breaker of hosted, fake, for the organisation 'good' alone: open, was closed: 5", 1),
        ("WARNING x: circuit breaker of hosted, fake, for the organisation 'bad' alone: open, was closed: 5", 0),
        ("INFO x: circuit breaker of hosted, fake: closed, was open: 2 successes", 0),
    ],
)
def test_breakers_count_that_open_for_others_than_the_attacker(tmp_path: Path, line: str, openings: int) -> None:
    log = tmp_path / "log"
    log.write_text(line + "\n")
    assert openings_in(log) == openings


async def test_a_run_measures_the_gateway_of_a_checkout(tmp_path: Path) -> None:
    row = await measure("deadlines of 1 ms", Path.cwd(), tmp_path, 2.0)
    assert row.is_alive
    assert row.sent == 200
    assert row.alone_p99_ms is not None
    assert row.memory_mb is not None
