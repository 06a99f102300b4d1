"""workersMin follows the router: up and down, in its pace, one setter of all replicas, and never left behind."""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import replace

import pytest

from tests.vllm_service.autoscaling.managed import KEY, PLACE, PROVIDER, Managed, World, other
from tests.waiting import turns
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.catalog.model import Catalog, WorkersMin


async def test_it_is_set_to_what_the_router_wants_up_and_down_and_nobody_is_woken_or_kept_by_a_job() -> None:
    world = World()
    replica = world.replica(0)
    for workers in (0, 1, 3, 1, 0):
        replica.router.workers = workers
        await world.rounds(replica, count=10)
        assert world.platform.workers_min == workers
        assert replica.keeper.status().by_provider["own"].workers_min == workers
    assert world.platform.set_to == [1, 3, 1, 0]
    assert {call for call in world.platform.asked if call.startswith("POST")} == set()


async def test_it_is_never_set_above_the_workers_that_the_endpoint_may_have() -> None:
    world = World()
    replica = world.replica(99)
    await world.rounds(replica, count=3)
    assert world.platform.set_to == [3]


async def test_a_target_that_jumps_up_and_down_is_followed_every_few_seconds_at_most() -> None:
    world = World()
    replicas = world.replica(0), world.replica(0)
    for second in range(100):
        for replica in replicas:
            replica.router.workers = second % 3
        await world.rounds(*replicas)
    pauses = [later - earlier for earlier, later in itertools.pairwise(world.platform.set_at)]
    assert min(pauses) >= 5
    assert len(pauses) >= 10


async def test_of_replicas_that_want_different_numbers_the_highest_counts_and_is_set_once() -> None:
    world = World()
    low, high = world.replica(1), world.replica(3)
    await world.rounds(low, high, count=120)
    assert world.platform.set_to in ([3], [1, 3])
    high.router.workers = 0
    await world.rounds(low, high, count=120)
    assert world.platform.set_to[-2:] == [3, 1]


async def test_the_word_of_a_replica_that_was_killed_counts_ten_seconds() -> None:
    world = World()
    alive, killed = world.replica(1), world.replica(3)
    await world.rounds(alive, killed, count=10)
    assert world.platform.workers_min == 3
    await world.rounds(alive, count=8)
    assert world.platform.workers_min == 3
    await world.rounds(alive, count=8)
    assert world.platform.workers_min == 1


async def test_the_last_replica_that_stops_sets_it_back_and_only_the_last() -> None:
    world = World(replace(PROVIDER, workers_min=WorkersMin(base=1)))
    first, last = world.replica(3), world.replica(2)
    await world.rounds(first, last, count=10)
    orders = len(world.platform.set_to)
    await first.keeper.leave()
    assert len(world.platform.set_to) == orders
    await world.rounds(last, count=10)
    assert world.platform.workers_min == 2
    await last.keeper.leave()
    assert world.platform.workers_min == 1


async def test_a_gateway_that_starts_again_after_a_crash_lowers_what_was_left_and_else_orders_nothing() -> None:
    world = World(platform=Managed(None, workers_min=3))
    await world.rounds(world.replica(0), count=5)
    assert world.platform.set_to == [0]
    await world.rounds(world.replica(0), count=5)
    assert world.platform.set_to == [0]


async def test_what_somebody_else_has_changed_is_noticed_within_a_minute_or_so() -> None:
    world = World()
    replica = world.replica(1)
    await world.rounds(replica, count=10)
    world.platform.workers_min = 3
    looks = world.platform.asked.count(f"GET {PLACE.url}")
    await world.rounds(replica, count=30)
    assert world.platform.asked.count(f"GET {PLACE.url}") == looks
    await world.rounds(replica, count=60)
    assert world.platform.set_to == [1, 1]


@pytest.mark.parametrize("fails", [500, 401, b"<html>"])
async def test_a_platform_that_fails_is_asked_ever_less_often_and_left_as_it_is(
    fails: int | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = World(platform=Managed(None, fails=fails))
    replicas = world.replica(2), world.replica(2)
    await world.rounds(*replicas, count=120)
    assert 4 <= world.platform.patches <= 10
    assert world.platform.workers_min == 0
    world.platform.fails = None
    await world.rounds(*replicas, count=70)
    assert world.platform.set_to == [2]
    assert KEY not in caplog.text
    assert "own: " in caplog.text


async def test_after_a_success_the_pauses_begin_anew() -> None:
    world = World(platform=Managed(None, fails=500))
    replica = world.replica(1)
    await world.rounds(replica, count=60)
    world.platform.fails = None
    await world.rounds(replica, count=70)
    assert world.platform.set_to == [1]
    world.platform.fails, replica.router.workers, patches = 500, 2, world.platform.patches
    await world.rounds(replica, count=20)
    assert world.platform.patches == patches + 3


async def test_an_order_whose_answer_was_lost_is_taken_back_as_soon_as_it_is_no_longer_wanted() -> None:
    world = World()
    replica = world.replica(1)
    await world.rounds(replica, count=10)
    world.platform.fails, replica.router.workers = "lost", 3
    await world.rounds(replica)
    world.platform.fails, replica.router.workers = None, 1
    await world.rounds(replica, count=7)
    assert world.platform.set_to == [1, 3, 1]


async def test_an_order_for_more_than_the_endpoint_may_have_does_not_hold_up_the_one_for_less() -> None:
    """The pauses between orders that are refused grow to a minute, in which workers would be paid for nothing."""
    world = World(platform=Managed(None, most=2))
    replica = world.replica(2)
    await world.rounds(replica, count=10)
    replica.router.workers = 3
    await world.rounds(replica, count=80)
    replica.router.workers = 0
    await world.rounds(replica, count=7)
    assert world.platform.set_to == [2, 0]


async def test_a_change_that_hangs_holds_up_neither_looks_at_its_workers_nor_the_other_endpoint() -> None:
    world = World(PROVIDER, other("second", workers_min=None), platform=Managed(None, fails="hang"))
    world.platform.health = {"workers": {"idle": 0}, "jobs": {"inQueue": 0}}
    replica = world.replica(1)
    await world.until_it_hangs(replica)
    looks = world.platform.asked.count("GET http://x/v2/ep/health")
    for _ in range(10):
        await world.begun(replica)
    assert world.platform.asked.count("GET http://x/v2/ep/health") == looks + 10
    assert world.platform.asked.count("POST http://x/v2/second/run") == 1
    assert world.platform.patches == 1
    replica.keeper.stop()
    await replica.keeper.idle()


async def test_what_cannot_be_set_back_is_said_with_what_to_do_and_the_stop_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    replica = world.replica(3)
    await world.rounds(replica, count=3)
    world.platform.fails = 500
    async with asyncio.timeout(10):
        await replica.keeper.leave()
    assert world.platform.patches > 2
    assert "workersMin of own could not be set back to 0, and its workers are paid until it is" in caplog.text
    assert "RunPod answered 500" in caplog.text
    world.platform.fails = "hang"
    async with asyncio.timeout(10):
        await replica.keeper.leave()


async def test_a_stop_in_the_middle_of_a_change_sets_it_back_and_leaves_the_lease_to_the_next() -> None:
    world = World(platform=Managed(None, fails="hang"))
    replica = world.replica(3)
    await world.until_it_hangs(replica)
    world.platform.fails = None
    await replica.keeper.leave()
    world.platform.released.set()
    await turns(50)
    assert world.platform.workers_min == 0
    await world.rounds(world.replica(1), count=3)
    assert world.platform.workers_min == 1


async def test_workers_of_an_endpoint_that_cannot_be_seen_are_not_asked_for_and_let_go_in_a_while() -> None:
    world = World()
    replica = world.replica(1)
    await world.rounds(replica, count=5)
    world.platform.health = None
    await world.rounds(replica, count=3)
    replica.router.workers = 3
    await world.rounds(replica, count=20)
    assert world.platform.workers_min == 1
    await world.rounds(replica, count=20)
    assert world.platform.workers_min == 0
    world.platform.health = {"workers": {"idle": 1}}
    await world.rounds(replica, count=70)
    assert world.platform.workers_min == 3


async def test_an_endpoint_that_is_configured_no_longer_is_set_back_and_one_that_stays_is_left_alone() -> None:
    world = World()
    replica = world.replica(2)
    await world.rounds(replica, count=10)
    world.catalog = Catalog(dict(world.catalog.providers), dict(world.catalog.models))
    looks = world.platform.asked.count(f"GET {PLACE.url}")
    await world.rounds(replica)
    assert world.platform.asked.count(f"GET {PLACE.url}") == looks
    assert replica.keeper.status().by_provider["own"].workers_min == 2
    assert world.platform.set_to == [2]
    by_jobs = replace(PROVIDER, workers_min=None)
    world.catalog = Catalog({"own": by_jobs}, world.catalog.models)
    await world.rounds(replica)
    await replica.keeper.leave()
    assert world.platform.set_to == [2, 0]


async def test_without_a_word_to_the_others_workers_are_woken_by_jobs() -> None:
    """The client's keeper: it looks only while requests come, so nobody would lower workersMin afterwards."""
    world = World(platform=Managed(None, health={"workers": {"idle": 0}}))
    keeper = EndpointController(world.platform, world.wakes, clock=world.clock)
    replica = world.replica(2)
    replica.keeper = keeper
    await world.rounds(replica, count=5)
    await keeper.leave()
    assert "POST http://x/v2/ep/run" in world.platform.asked
    assert world.platform.patches == 0
