"""A flood leaves the others at most half as fast: organisations at one pool, played against a clock of its own."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass, field
from itertools import count

import pytest

from vllm_service.autoscaling.worker_room import WorkerRoom
from vllm_service.http.fair_queue import FairQueue, QueueBounds, Turn
from vllm_service.runpod.health import EndpointHealth

HORIZON = 200.0


@dataclass
class Load:
    """An organisation that keeps `at_once` requests under way; each takes `seconds` once it has a connection."""

    name: str
    at_once: int
    seconds: float
    begins: float = 0.0
    keys: int = 1
    #: From coming to the end of the answer.
    latencies: list[float] = field(default_factory=list)


@dataclass
class Played:
    """One request."""

    load: Load
    key: str
    came: float
    turn: Turn | None = None


class World:
    """A pool and its loads. Nothing waits for real time.

    slots: a worker behind the pool, which serves so many at once, first come, first served; 0: as many as come.
    """

    def __init__(self, capacity: int, *loads: Load, slots: int = 0) -> None:
        self.queue = FairQueue(capacity, QueueBounds(100_000, 1_000_000))
        self.slots = slots or 1_000_000
        self.at_worker: deque[Played] = deque()
        self.numbers = count()
        self.events: list[tuple[float, int, str, Played]] = []
        #: By organisation and key; only the first of each line can be served next.
        self.waiting: dict[tuple[str, str], deque[Played]] = {}
        for load in loads:
            for number in range(load.at_once):
                self.at(load.begins, "comes", Played(load, f"key-{number % load.keys}", load.begins))

    def at(self, when: float, what: str, request: Played) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), what, request))

    def play(self, until: float = HORIZON) -> None:
        while self.events and self.events[0][0] <= until:
            now, _, what, request = heapq.heappop(self.events)
            flow = self.queue.flow(request.load.name)
            if what == "ends":
                self.slots += 1
                request.load.latencies.append(now - request.came)
                self.at(now, "comes", Played(request.load, request.key, now))
                self.queue.give_back(flow)
            elif self.queue.take(flow):
                self.at_worker.append(request)
            else:
                request.turn = self.queue.line_up(flow, request.key)
                self.waiting.setdefault((request.load.name, request.key), deque()).append(request)
            for line in self.waiting.values():
                while line and line[0].turn is not None and line[0].turn.done():
                    self.at_worker.append(line.popleft())
            while self.at_worker and self.slots:
                self.slots -= 1
                served = self.at_worker.popleft()
                self.at(now + served.load.seconds, "ends", served)


def latencies(capacity: int, good: Load, *floods: Load, slots: int = 0) -> list[float]:
    """Returns the latencies of the good load's answers beside these floods. slots: see World."""

    async def run() -> None:
        World(capacity, good, *floods, slots=slots).play()

    asyncio.run(run())
    return good.latencies


@pytest.mark.parametrize("capacity", [2, 4, 9, 32])
@pytest.mark.parametrize("keys", [1, 50])
@pytest.mark.parametrize("seconds", [0.5, 1.0, 100.0])
def test_one_request_at_a_time_does_not_notice_another_organisations_flood(
    capacity: int, keys: int, seconds: float
) -> None:
    flood = Load("flood", 4 * capacity, seconds, keys=keys)
    good = latencies(capacity, Load("good", 1, 1.0, begins=5.0), flood)
    assert len(good) == HORIZON - 5
    assert max(good) == 1.0
    assert flood.latencies


@pytest.mark.parametrize("capacity", [9, 18, 36])
@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_an_organisation_that_could_use_the_whole_pool_is_at_most_half_as_fast_beside_a_flood(
    capacity: int, seconds: float
) -> None:
    alone = latencies(capacity, Load("good", capacity, 1.0))
    beside = latencies(capacity, Load("good", capacity, 1.0), Load("flood", 10 * capacity, seconds, keys=30))
    while_the_first_long_answers_end = capacity * seconds
    assert len(beside) * 2 + while_the_first_long_answers_end >= len(alone)


def test_how_fast_two_floods_go_does_not_depend_on_how_many_requests_each_sends() -> None:
    small, large = Load("small", 40, 1.0), Load("large", 400, 1.0, keys=20)
    latencies(34, small, large)
    assert len(small.latencies) == pytest.approx(len(large.latencies), abs=34)  # one round


def test_a_pool_of_one_serves_two_organisations_in_turn() -> None:
    good = latencies(1, Load("good", 1, 1.0), Load("flood", 50, 1.0))
    assert max(good) == 2.0


def test_alone_an_organisation_keeps_eight_of_nine_busy_all_the_time() -> None:
    alone = Load("alone", 50, 1.0)
    latencies(9, alone)
    assert len(alone.latencies) == 8 * HORIZON


@pytest.mark.parametrize("slots", [4, 32])
def test_a_full_worker_with_a_line_of_its_own_delays_others_only_where_the_gateway_fills_that_line(slots: int) -> None:
    def flooded() -> Load:
        return Load("flood", 5 * slots, 20.0)

    unbounded = latencies(1024, Load("good", 1, 1.0, begins=5.0), flooded(), slots=slots)
    assert max(unbounded) > 90  # behind all that the flood has put into the worker's line
    room = WorkerRoom(slots, max_workers=1, is_scaled_by_queue=True)
    bound = room.requests(EndpointHealth(workers={"running": 1}), own=0)
    assert bound == slots
    assert max(latencies(bound, Load("good", 1, 1.0, begins=5.0), flooded(), slots=slots)) == 1.0
