"""Sharing a provider's connections: what one organisation may hold, whose turn is next, and that nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from vllm_service.http.fair_queue import FairQueue, Flow, QueueBounds, Turn
from vllm_service.http.upstream import NoFreeConnection

BOUNDS = QueueBounds()


def taken_alone(queue: FairQueue, organisation: str) -> int:
    flow = queue.flow(organisation)
    while queue.take(flow):
        pass
    return flow.held


@pytest.mark.parametrize(
    ("capacity", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (9, 8), (10, 8), (18, 16), (100, 88), (1024, 910)]
)
def test_one_organisation_leaves_one_of_nine_free_and_always_gets_its_first(capacity: int, most: int) -> None:
    assert taken_alone(FairQueue(capacity, BOUNDS), "acme") == most


def test_requests_of_no_organisation_may_take_all() -> None:
    assert taken_alone(FairQueue(10, BOUNDS), "") == 10


def test_who_comes_to_a_pool_that_another_has_filled_gets_one_at_once() -> None:
    queue = FairQueue(90, BOUNDS)
    taken_alone(queue, "flood")
    for number in range(5):
        assert queue.take(queue.flow(f"good-{number}"))
    assert queue.flow("flood").held == 80


def test_an_organisation_may_take_all_but_the_last_when_little_is_free_only_as_its_first() -> None:
    queue = FairQueue(4, BOUNDS)
    taken_alone(queue, "flood")
    assert queue.take(queue.flow("good"))
    assert queue.free == 0
    assert not queue.take(queue.flow("third"))


async def test_what_is_freed_goes_to_the_organisation_that_holds_the_fewest() -> None:
    queue = FairQueue(4, BOUNDS)
    flood, good, third = (queue.flow(name) for name in ("flood", "good", "third"))
    taken_alone(queue, "flood")
    queue.take(good)
    waiting = [queue.line_up(flow, "k") for flow in (flood, good, third)]
    queue.give_back(flood)
    assert [turn.done() for turn in waiting] == [False, False, True]
    queue.give_back(flood)  # now each has one, and the last one stays free for a fourth
    assert [turn.done() for turn in waiting] == [False, False, True]
    queue.give_back(flood)
    assert [turn.done() for turn in waiting] == [True, False, True]


async def test_of_equal_organisations_the_one_that_was_served_longest_ago_is_next() -> None:
    queue = FairQueue(1, BOUNDS)
    flows = [queue.flow(name) for name in "abc"]
    queue.take(flows[0])
    turns = [(flow, queue.line_up(flow, "k")) for flow in (flows[0], flows[0], flows[1], flows[1], flows[2])]
    assert await _served(queue, flows[0], turns) == [0, 2, 4, 1, 3]


async def test_the_keys_of_an_organisation_take_turns_and_a_keys_requests_keep_their_order() -> None:
    queue = FairQueue(1, BOUNDS)
    flow = queue.flow("acme")
    queue.take(flow)
    turns = [(flow, queue.line_up(flow, key)) for key in ("loud", "loud", "loud", "quiet", "quiet")]
    assert await _served(queue, flow, turns) == [0, 3, 1, 4, 2]


async def _served(queue: FairQueue, holder: Flow, turns: list[tuple[Flow, Turn]]) -> list[int]:
    """Returns the numbers of the turns in the order in which they are served, one after the other."""
    order: list[int] = []
    while len(order) < len(turns):
        queue.give_back(holder)
        number = next(n for n, (_, turn) in enumerate(turns) if turn.done() and n not in order)
        order.append(number)
        holder = turns[number][0]
    return order


async def test_an_organisation_has_a_bound_of_waiting_requests_and_the_others_stay_welcome() -> None:
    queue = FairQueue(1, QueueBounds(of_organisation=2, in_total=10))
    flood = queue.flow("flood")
    queue.take(flood)
    for _ in range(2):
        queue.line_up(flood, "k")
    with pytest.raises(NoFreeConnection, match="2 requests of this organisation"):
        queue.line_up(flood, "k")
    assert not queue.line_up(queue.flow("good"), "k").done()
    assert (queue.length, queue.refusals) == (3, 1)


async def test_at_the_bound_of_all_the_last_of_the_longest_line_gives_way() -> None:
    queue = FairQueue(1, QueueBounds(of_organisation=10, in_total=3))
    flood, good = queue.flow("flood"), queue.flow("good")
    queue.take(flood)
    first, second, last = (queue.line_up(flood, key) for key in ("a", "b", "b"))
    turn = queue.line_up(good, "k")
    assert (first.done(), second.done(), turn.done()) == (False, False, False)
    with pytest.raises(NoFreeConnection, match="3 requests wait"):
        last.result()
    with pytest.raises(NoFreeConnection):  # nobody's line is longer than its own would be
        queue.line_up(good, "k")
    assert (queue.length, queue.refusals) == (3, 2)


async def test_a_request_that_leaves_in_the_turn_in_which_it_was_served_passes_it_on() -> None:
    queue = FairQueue(1, BOUNDS)
    holder, leaving, next_one = (queue.flow(name) for name in ("holder", "leaving", "next"))
    queue.take(holder)
    turn, following = queue.line_up(leaving, "k"), queue.line_up(next_one, "k")
    queue.give_back(holder)
    assert (turn.done(), following.done()) == (True, False)
    queue.leave(leaving, "k", turn)
    assert following.done()
    assert [flow.held for flow in (holder, leaving, next_one)] == [0, 0, 1]


def test_fewer_connections_take_none_away_and_more_serve_those_who_wait() -> None:
    async def run() -> None:
        queue = FairQueue(9, BOUNDS)
        flood, good = queue.flow("flood"), queue.flow("good")
        taken_alone(queue, "flood")
        queue.resize(2)
        assert (flood.held, queue.taken) == (8, 8)
        turn = queue.line_up(good, "k")
        for _ in range(6):
            queue.give_back(flood)
        assert not turn.done()
        queue.resize(3)
        assert turn.done()

    asyncio.run(run())


def test_organisations_that_hold_and_want_nothing_are_forgotten() -> None:
    queue = FairQueue(4, BOUNDS)
    kept = queue.flow("kept")
    queue.take(kept)
    for number in range(5000):
        queue.flow(f"gone-{number}")
    assert len(queue.flows) <= 1002
    assert queue.flow("kept") is kept
