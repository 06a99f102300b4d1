"""Whose turn it is: connections that are freed, lost or left, and those who wait for one, in the turn it matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.http.eager_task import EagerTask
from vllm_service.http.pool import ConnectionPool
from vllm_service.http.upstream import CutShort, NotReached
from vllm_service.testing import CLOSES, ScriptedProvider, in_turn, whole

LATER_SECONDS = 1.1  # than a connection that had been closed would have said so


@dataclass
class OnePlace:
    """A provider that may be asked over one connection, and answers when `go_on` is set."""

    connections: ConnectionPool
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.upstream = ScriptedProvider(whole({}).after(self.go_on))

    @property
    def asked(self) -> list[bytes]:
        """The bodies, in the order in which they came."""
        return [request.body for request in self.upstream.requests]

    async def ask(self, body: bytes) -> None:
        answer = await self.connections.send(self.provider, "/x", b"", body)
        assert answer.status == 200

    async def waiting(self, *bodies: bytes) -> list[asyncio.Task[None]]:
        """They wait for the connection, in this order."""
        await self.upstream.until_requests(1)
        tasks = []
        for body in bodies:
            tasks.append(asyncio.create_task(self.ask(body)))
            await asyncio.sleep(0)
        return tasks

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with self.upstream, asyncio.timeout(20):
            self.provider = Provider("p", ProviderKind.HOSTED, self.upstream.url, None, max_connections=1)
            yield
            await self.connections.close()


@pytest.fixture
async def place() -> AsyncIterator[OnePlace]:
    place = OnePlace(ConnectionPool())
    async with place.open():
        yield place


async def test_a_freed_connection_goes_to_who_has_waited_longest_and_not_to_who_comes_just_then(
    place: OnePlace,
) -> None:
    async def ask_and_at_once_again() -> None:
        await place.ask(b"a")
        await place.ask(b"again")

    first = asyncio.create_task(ask_and_at_once_again())
    waiting = await place.waiting(b"b", b"c")
    place.go_on.set()
    await asyncio.gather(first, *waiting)
    assert place.asked == [b"a", b"b", b"c", b"again"]
    assert place.upstream.connections == 1


async def test_who_leaves_in_the_very_turn_of_being_woken_passes_it_on(place: OnePlace) -> None:
    async def ask_and_send_the_next_away() -> None:
        await place.ask(b"a")
        leaving.cancel()  # its turn has been given to it, and it has not run since

    first = asyncio.create_task(ask_and_send_the_next_away())
    leaving, last = await place.waiting(b"b", b"c")
    place.go_on.set()
    await asyncio.gather(first, last)
    assert leaving.cancelled()
    assert place.asked == [b"a", b"c"]
    assert place.upstream.connections == 1


async def test_a_connection_that_cannot_be_opened_wakes_the_next_who_waits() -> None:
    connections = ConnectionPool()
    nowhere = Provider(
        "p", ProviderKind.HOSTED, "http://127.0.0.1:9/v1", None, max_connections=1, connect_timeout_seconds=60
    )
    async with asyncio.timeout(20):
        sent = [connections.send(nowhere, "/x", b"", b"{}") for _ in range(3)]
        faults = await asyncio.gather(*sent, return_exceptions=True)
    assert [(type(fault), "ConnectionRefusedError" in str(fault)) for fault in faults] == [(NotReached, True)] * 3
    await connections.close()


async def test_who_leaves_while_a_connection_opens_wakes_the_next_who_waits(place: OnePlace) -> None:
    place.go_on.set()
    leaving, last = [asyncio.create_task(place.ask(body)) for body in (b"a", b"b")]
    await asyncio.sleep(0)
    leaving.cancel()
    await last
    assert leaving.cancelled()
    assert place.asked == [b"b"]


def when_it_is_woken(task: asyncio.Task[None], call: Callable[[], None]) -> None:
    """Calls `call` in the turn in which what the task waits for has come, before the task itself hears of it."""

    def look() -> None:
        awaited = task._fut_waiter  # type: ignore[attr-defined]
        if awaited is not None and awaited.done():
            call()
        elif not task.done():
            asyncio.get_running_loop().call_soon(look)

    look()


@pytest.mark.parametrize("has_a_next_one", [True, False])
async def test_leaving_in_the_turn_in_which_the_answer_came_ends_nothing_of_the_next_ones(
    place: OnePlace, has_a_next_one: bool
) -> None:
    following: list[EagerTask] = []

    def leave() -> None:
        if has_a_next_one:  # it is on the same connection before the first one is told of its answer
            following.append(EagerTask(place.ask(b"next"), asyncio.get_running_loop(), lambda task: None))
            following[0].begin()
        leaving.cancel()

    leaving = asyncio.create_task(place.ask(b"left"))
    await place.upstream.until_requests(1)
    when_it_is_woken(leaving, leave)
    place.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.gather(*following)
    await place.ask(b"last")
    assert place.asked == [b"left", *([b"next"] if has_a_next_one else []), b"last"]
    assert place.upstream.connections == 1


async def test_leaving_before_the_answer_ends_the_connection(place: OnePlace) -> None:
    """Its answer would be taken for the next one's."""
    leaving = asyncio.create_task(place.ask(b"left"))
    await place.upstream.until_requests(1)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    place.go_on.set()
    await place.ask(b"next")
    assert place.upstream.connections == 2


async def test_a_kept_connection_that_is_cut_when_somebody_has_been_at_work_is_not_asked_again() -> None:
    """Had it been closed before, the cut would have come within a round trip. Asking twice may be paid for twice."""
    works_in_vain = CLOSES.after(LATER_SECONDS)  # the provider's work: nothing shows its time but time
    upstream, connections = ScriptedProvider(in_turn(whole({}), works_in_vain)), ConnectionPool()
    async with upstream:
        provider = Provider("p", ProviderKind.HOSTED, upstream.url, None)
        await connections.send(provider, "/x", b"", b"{}")
        with pytest.raises(CutShort):
            await connections.send(provider, "/x", b"", b"{}")
        await connections.close()
    assert (len(upstream.requests), upstream.connections) == (2, 1)
