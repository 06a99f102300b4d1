"""What is booked before any bill, beside the bill and its attribution by the workers' true times."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.vllm_service.autoscaling.lives_world import GPU_PRICES, PRICE, Lived, T, World
from vllm_service.accounting.booking import RanRequest, WorkerBill, book
from vllm_service.storage.ledger.lives import LifeStore
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.open import open_database

IDLE, COLD = 5.0, (20.0, 40.0)
SLOTS, MOST_WORKERS = 4, 3
CALLERS = ("a", "b", "c")


@dataclass
class Endpoint:
    """Workers as RunPod runs them: started for a request that finds no slot, stopped after the idle timeout."""

    chance: random.Random
    gpu_types: tuple[str | None, ...] = (None,)
    lives: list[Lived] = field(default_factory=list)
    #: Of requests: (caller, begin, end); of another application's: caller None.
    ran: list[tuple[str | None, float, float]] = field(default_factory=list)

    def request(self, caller: str | None, begin: float, seconds: float) -> None:
        up = [number for number, life in enumerate(self.lives) if begin < life.stop]
        free = [number for number in up if sum(a <= begin < b for a, b in self.lives[number].busy) < SLOTS]
        if not free and len(up) < MOST_WORKERS:
            start = begin + self.chance.uniform(0.1, 0.5)
            ready = start + self.chance.uniform(*COLD)
            gpu_type = self.gpu_types[len(self.lives) % len(self.gpu_types)]
            self.lives.append(Lived(start, ready, ready, f"w{len(self.lives)}", gpu_type=gpu_type))
            free = [len(self.lives) - 1]
        number = (free or up)[0]
        life = self.lives[number]
        end = max(begin, life.ready) + seconds
        self.lives[number] = replace(
            life, stop=max(life.stop, end + IDLE), busy=(*life.busy, (max(begin, life.ready), end))
        )
        self.ran.append((caller, begin, end))

    def traffic(self, begin: float, end: float, pause: float, caller: str | None = "") -> None:
        at = begin
        while (at := at + self.chance.expovariate(1 / pause)) < end:
            who = self.chance.choice(CALLERS) if caller == "" else caller
            self.request(who, at, self.chance.uniform(1.0, 12.0))


def light(made: Endpoint) -> None:
    made.traffic(0, 7200, 200)


def busy(made: Endpoint) -> None:
    made.traffic(0, 1800, 2.0)


def two_gpu_types(made: Endpoint) -> None:
    made.gpu_types = tuple(GPU_PRICES)
    made.traffic(0, 5400, 60)


def an_hour_down(made: Endpoint) -> None:
    made.traffic(0, DOWN[0] - 8, 60)
    made.request(None, DOWN[1] - 200, 280)
    made.traffic(DOWN[1] + 200, DOWN[1] + 3000, 60)


def another_application(made: Endpoint) -> None:
    at = 0.0
    for _ in range(30):
        made.traffic(at, at + 60, 15)
        made.request(None, max(at + 60, max((life.stop for life in made.lives), default=0) - 3), 50)
        at = max(life.stop for life in made.lives) + 20


DOWN = (3000.0, 6600.0)
SCENARIOS = (light, busy, two_gpu_types, an_hour_down, another_application)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_booked_within_3_percent_of_the_bill_and_5_percent_of_each_callers_share(
    tmp_path: Path, scenario: object
) -> None:
    made = Endpoint(random.Random(16))
    assert callable(scenario)
    scenario(made)
    database = await open_database(None, tmp_path)
    world = World(database)
    for caller, begin, end in made.ran:
        if caller is not None:
            await world.ran(begin, end, key_id=caller)
    if scenario is an_hour_down:
        await world.pass_day(DOWN[0], world.keeper("before"), made.lives)
        world.now = world.passed = DOWN[1]
    await world.pass_day(max(life.stop for life in made.lives) + 100, world.keeper("gateway"), made.lives)
    truth = true_shares(made)
    booked = await booked_shares(world)
    await database.close()
    bill = sum(truth.values())
    assert abs(sum(booked.values()) - bill) <= 0.03 * bill
    for caller in CALLERS:
        assert abs(booked[caller] - truth[caller]) <= 0.05 * truth[caller], (caller, booked, truth)
    assert abs(booked[None] - truth[None]) <= 0.05 * bill


def us(seconds: float) -> int:
    return round((T + seconds) * 10**6)


def true_shares(made: Endpoint) -> Counter[str | None]:
    """Pico-dollars of the bill by caller, by the true times of workers; None: no request of ours caused them."""
    bills = []
    for life in made.lives:
        start, ready, stop = us(life.start), us(life.ready), us(life.stop)
        price = PRICE if life.gpu_type is None else GPU_PRICES[life.gpu_type]
        seconds = -(-(stop - start) // 10**6)
        bills.append(WorkerBill(life.name, "own", start, stop, seconds * 10**6 * price, ready))
    requests = [
        RanRequest(None if caller is None else str(number), "own", us(begin), us(end))
        for number, (caller, begin, end) in enumerate(made.ran)
    ]
    shares: Counter[str | None] = Counter()
    for booking in book(bills, requests):
        caller = None if booking.request_id is None else made.ran[int(booking.request_id)][0]
        shares[caller] += booking.total_picousd
    return shares


async def booked_shares(world: World) -> Counter[str | None]:
    """Pico-dollars by caller, as the ledger has them."""
    shares: Counter[str | None] = Counter()
    async for _, row in LedgerReader(world.database).records():
        assert row.cost_basis == "booked"
        shares[row.key_id] += row.cost_picousd or 0
    day = int(T // 86_400)
    shares[None] = sum(one.nobody_picousd for one in await LifeStore(world.database).days("own", day, day + 1))
    return shares
