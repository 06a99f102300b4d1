"""What all connections together may hold: bodies, requests that wait, answers that are not read."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.vllm_service.http.one_connection import SECRET, KeyStore, Served, Wire, post, turns
from tests.waiting import until
from vllm_service.domain.keys import ApiKey
from vllm_service.http.byte_budget import SMALL_BYTES, ByteBudget
from vllm_service.http.limits import ConnectionLimits

READ = 65_536
MEGABYTE = 1_000_000
ORGANISATIONS = {f"key-{number}": ApiKey(f"id-{number}", f"organisation-{number}") for number in range(10)}


def served_with(megabytes: int, **more: int) -> Served:
    keys = KeyStore(known=dict(ORGANISATIONS) | {SECRET: ApiKey("key-1", "acme")})
    keys.in_memory = set(keys.known)
    limits = ConnectionLimits(buffered_bytes=megabytes * MEGABYTE, **more)
    return Served(limits, keys=keys)


def held_by(wires: list[Wire]) -> int:
    """What connections hold of requests that are not complete."""
    return sum(wire.connection.body_size() + len(wire.connection._unread) for wire in wires)


async def begun(served: Served, secret: str, size: int, count: int) -> list[Wire]:
    """Connections that have sent so much of a body, and not its end."""
    wires = [served.connect(f"198.51.100.{number}") for number in range(count)]
    for wire in wires:
        await wire.send(post(b"x" * size, secret=secret, length=20 * MEGABYTE))
    return wires


async def test_unfinished_bodies_of_one_organisation_hold_half_of_the_budget_at_most() -> None:
    served = served_with(8)
    wires = await begun(served, "key-0", MEGABYTE, 60)
    budget = served.server.budget
    assert held_by(wires) == budget.held_bytes <= 4 * MEGABYTE
    refused = [wire for wire in wires if wire.is_refused]
    assert len(refused) >= 56
    assert all(wire.statuses == [503] and b"retry-after: 1" in wire.transport.written for wire in refused)
    good = served.connect()
    await good.send(post(b"y" * MEGABYTE))
    assert good.statuses == [200]


async def test_organisations_that_take_all_give_way_to_one_that_holds_less() -> None:
    served = served_with(8)
    crowds = [await begun(served, f"key-{number}", MEGABYTE, 4) for number in range(3)]
    assert served.server.budget.held_bytes <= 8 * MEGABYTE
    good = served.connect()
    await good.send(post(b"y" * MEGABYTE))
    assert good.statuses == [200]
    assert served.server.budget.held_bytes == held_by([wire for crowd in crowds for wire in crowd]) <= 8 * MEGABYTE


async def test_small_requests_are_answered_when_no_byte_is_left() -> None:
    served = served_with(4)
    await begun(served, "key-0", 2 * MEGABYTE - READ, 1)
    await begun(served, "key-1", 2 * MEGABYTE - READ, 1)
    small = served.connect()
    await small.send(post(b"y" * (SMALL_BYTES // 2)) * 3)
    await turns()
    assert small.statuses == [200] * 3


async def test_a_body_counts_until_it_is_answered_and_what_was_held_comes_back() -> None:
    served = served_with(8)
    served.go_on.clear()
    wire = served.connect()
    await wire.send(post(b"y" * MEGABYTE))
    assert served.server.budget.held_bytes == MEGABYTE
    served.go_on.set()
    await turns()
    assert wire.statuses == [200]
    assert served.server.budget.held_bytes == 0


async def test_a_caller_who_leaves_gives_all_back_once_its_task_has_ended() -> None:
    served = served_with(8)
    served.go_on.clear()
    leaving, stays = served.connect(), served.connect()
    for wire in (leaving, stays):
        await wire.send(post(b"y" * MEGABYTE))
    served.requests[1][1].outlives_caller = True
    leaving.transport.abort()
    assert served.server.budget.held_bytes == MEGABYTE
    stays.transport.abort()
    assert served.server.budget.held_bytes == MEGABYTE  # the task goes on, and has the body
    served.go_on.set()
    await turns()
    assert served.server.budget.held_bytes == 0


async def test_pipelined_bodies_wait_in_the_callers_host() -> None:
    served = served_with(400)
    served.go_on.clear()
    wire = served.connect()
    await wire.send(post(b"a" * 20) + post(b"z" * 19 * MEGABYTE) * 16)
    assert not wire.is_read()
    assert len(wire.connection._requests) == 1
    assert served.server.budget.held_bytes <= 19 * MEGABYTE + 2 * READ
    served.go_on.set()
    await until(wire.is_read)


async def test_small_pipelined_requests_are_read_ahead_up_to_a_bound() -> None:
    served = served_with(400)
    served.go_on.clear()
    wires = [served.connect() for _ in range(20)]
    request = b"GET / HTTP/1.1\r\n\r\n"
    for wire in wires:
        await wire.send(request * 100_000)
        assert not wire.is_read()
        assert len(wire.connection._requests) <= 16 + 8_192 // len(request)
        assert wire.sent <= READ
    assert served.server.budget.held_bytes >= 20 * 400 * 1_000  # the objects are counted, too
    served.go_on.set()
    await turns(10_000)
    assert [len(wire.statuses) for wire in wires] == [READ // len(request)] * 20


async def test_answers_that_are_not_read_end_the_answering() -> None:
    served = served_with(8)
    wire = served.connect(is_full=True)
    await wire.send(post(b"{}") * 10_000)
    await turns(1_000)
    assert wire.statuses == [200]  # the next one begins when this one has been read
    assert not wire.is_read()
    wire.transport.is_full = False
    wire.connection.resume_writing()
    await turns(3_000)
    assert len(wire.statuses) > 100


async def test_unread_answers_beyond_the_budget_are_cut() -> None:
    served = served_with(4)
    wires = [served.connect(is_full=True) for _ in range(10)]
    for wire in wires:
        await wire.send(post(b"{}"))
        wire.transport.written += b"x" * MEGABYTE
        wire.connection.pause_writing()
    await turns()
    assert served.server.budget.held_bytes <= 4 * MEGABYTE
    assert sum(wire.transport.is_gone for wire in wires) >= 6


@dataclass
class Plain:
    """A holder of bytes."""

    budget: ByteBudget
    is_receiving: bool = True
    refused: int = field(default=0)

    __hash__ = object.__hash__

    def refuse_for_bytes(self) -> None:
        self.refused += 1
        self.budget.release(self)


def test_the_one_who_holds_most_gives_way_and_nobody_else() -> None:
    budget = ByteBudget(100)
    large = [Plain(budget) for _ in range(3)]
    for holder in large:
        assert budget.hold(holder, "large", 15)
    middle, small = Plain(budget), Plain(budget)
    assert budget.hold(middle, "middle", 40)
    assert budget.hold(small, "small", 20)
    assert [holder.refused for holder in large] == [1, 0, 0]
    assert (middle.refused, budget.held_bytes) == (0, 90)
    assert not budget.hold(Plain(budget), "middle", 15)  # more than half, and it holds most itself
    assert budget.held_bytes == 90


def test_what_is_answered_is_not_taken_away() -> None:
    budget = ByteBudget(100)
    answered = [Plain(budget, is_receiving=False) for _ in range(2)]
    assert budget.hold(answered[0], "a", 50)
    assert budget.hold(answered[1], "b", 50)
    newcomer = Plain(budget)
    assert not budget.hold(newcomer, "c", 1)
    assert budget.hold(answered[0], "a", 10)
    assert budget.hold(newcomer, "c", 1)


def test_one_connection_alone_may_have_more_than_the_share() -> None:
    budget = ByteBudget(100)
    one, two = Plain(budget), Plain(budget)
    assert budget.hold(one, "a", 80)
    assert not budget.hold(two, "a", 10)
    assert budget.hold(one, "a", 0)
    assert budget.hold(two, "a", 10)
    budget.release(two)
    budget.release(two)
    assert budget.held_bytes == 0
    assert not budget._owners
    assert not budget._owner_names


def test_a_connection_whose_key_changes_counts_for_the_new_one() -> None:
    budget = ByteBudget(100)
    one = Plain(budget)
    assert budget.hold(one, "address", 30)
    assert budget.hold(one, "organisation", 40)
    assert budget.held_bytes == 40
    assert list(budget._owners) == ["organisation"]


async def test_what_has_been_read_and_waits_to_be_parsed_counts_too() -> None:
    served = served_with(2)
    wires = [served.connect(f"198.51.100.{number}") for number in range(40)]
    for number, wire in enumerate(wires):
        await wire.send(post(b"x" * 240_000, secret=f"unknown-{number}"), piece=262_144)
    assert held_by(wires) == served.server.budget.held_bytes <= 2 * MEGABYTE
    assert sum(wire.is_refused for wire in wires) >= 31
