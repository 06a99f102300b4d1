"""Endpoints looked after on a platform that is slow, silent, wrong, or loses its worker: one wake, whoever asks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.vllm_service.configured_order import ConfiguredOrder
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.autoscaling.wake_lease import WakeSettings
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.plan import ListedWorkers, WorkerTarget
from vllm_service.domain.pricing import SecondPrice
from vllm_service.runpod.endpoint import Reply, RunPodSettings
from vllm_service.storage.coordination.memory import MemoryWakes

PROVIDER = Provider(
    "own", ProviderKind.RUNPOD, "http://x/v2/ep/openai/v1", control_url="http://x/v2/ep", second_price=SecondPrice(310)
)
CATALOG = Catalog({"own": PROVIDER}, {"m": PublicModel("m", (Offer("own", "there"),))})
NOBODY: dict[str, Any] = {"workers": {"idle": 0, "running": 0, "initializing": 0}, "jobs": {"inQueue": 0}}
LEASE = WakeSettings(lease_seconds=100, retry_seconds=5)


@dataclass
class Platform:
    """RunPod as these tests need it. `health` is answered as JSON; bytes as they are; None with no answer."""

    health: Any = field(default_factory=lambda: NOBODY)
    looks: int = 0
    jobs: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        if method == "POST" and "/cancel/" in url:
            self.cancelled.append(url.removeprefix("http://x/v2/ep/cancel/"))
            return Reply(200, b"{}", {})
        if method == "POST":
            assert url == "http://x/v2/ep/run"
            self.jobs.append(json.loads(body))
            return Reply(200, b'{"id": "job-%d", "status": "IN_QUEUE"}' % len(self.jobs), {})
        self.looks += 1
        if self.health is None:
            raise TimeoutError
        return Reply(200, self.health if isinstance(self.health, bytes) else json.dumps(self.health).encode(), {})


class Wants(ConfiguredOrder):
    """A router that wants so many workers, and keeps what it is told."""

    def __init__(self, workers: int, always_on: int = 0) -> None:
        super().__init__(CATALOG)
        self.workers, self.always_on = workers, always_on
        self.told: list[Mapping[str, object] | None] = []

    def observe_health(
        self,
        provider: str,
        health: Mapping[str, object] | None,
        now_seconds: float,
        listed: ListedWorkers | None = None,
    ) -> None:
        assert provider == "own"
        self.told.append(health)

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        return (WorkerTarget("own", self.workers, "demand", self.always_on, estimated_usd=0.25),)


@dataclass
class World:
    """Replicas on one platform, sharing their leases, and a clock that the test moves."""

    platform: Platform = field(default_factory=Platform)
    router: Wants = field(default_factory=lambda: Wants(1))
    now: float = 0.0

    def __post_init__(self) -> None:
        self.wakes = MemoryWakes(lambda: self.now)

    def keeper(self) -> EndpointController:
        return EndpointController(self.platform, self.wakes, RunPodSettings(), LEASE, lambda: self.now)

    async def rounds(self, *keepers: EndpointController, count: int = 1, apart_seconds: float = 1.0) -> None:
        for _ in range(count):
            for keeper in keepers:
                keeper.round(CATALOG, self.router)
            for keeper in keepers:
                await keeper.idle()
            self.now += apart_seconds


async def test_two_replicas_wake_an_endpoint_once() -> None:
    world = World()
    await world.rounds(world.keeper(), world.keeper(), count=20)
    assert [job["input"]["openai_input"]["model"] for job in world.platform.jobs] == ["there"]


async def test_health_is_asked_every_two_seconds_at_most_and_the_router_is_told() -> None:
    world = World(router=Wants(0))
    keeper = world.keeper()
    await world.rounds(keeper, count=21)
    assert world.platform.looks == 11
    assert world.router.told[0] == {"workers": {"idle": 0, "running": 0, "initializing": 0}}
    assert world.platform.jobs == []
    worker = keeper.status().by_provider["own"]
    assert (worker.idle, worker.estimated_usd) == (0, 0.25)


@pytest.mark.parametrize("health", [None, b"<html>", b"[]"])
async def test_an_endpoint_that_cannot_be_seen_is_not_woken(health: Any) -> None:
    world = World(Platform(health))
    keeper = world.keeper()
    await world.rounds(keeper, count=200)
    assert world.platform.jobs == []
    assert set(map(str, world.router.told)) == {"None"}
    assert world.platform.looks < 20
    assert keeper.status().by_provider == {}


@pytest.mark.parametrize(
    "health",
    [
        {"workers": {"running": 1}},
        {"workers": {"idle": 1, "running": 1}},
        {"workers": {"idle": 1}, "jobs": {"inProgress": 1}},
        {"workers": {"initializing": 1}},
        {"workers": {"idle": 0}, "jobs": {"inQueue": 1}},
    ],
)
async def test_who_has_a_worker_or_a_job_that_waits_is_not_woken(health: dict[str, Any]) -> None:
    world = World(Platform(health))
    await world.rounds(world.keeper(), count=10)
    assert world.platform.jobs == []


async def test_a_wake_that_nobody_answers_is_tried_again_after_the_lease_and_not_before() -> None:
    world = World()
    keepers = world.keeper(), world.keeper()
    await world.rounds(*keepers, count=99)
    assert len(world.platform.jobs) == 1
    await world.rounds(*keepers, count=10)
    assert len(world.platform.jobs) == 2


async def test_workers_that_die_while_they_load_are_woken_again_ever_later_and_their_jobs_then_wait() -> None:
    world = World()
    keepers = world.keeper(), world.keeper()
    woken_at = []
    for _ in range(400):
        before = len(world.platform.jobs)
        await world.rounds(*keepers)
        if len(world.platform.jobs) > before:
            woken_at.append(world.now)
            world.platform.health = {"workers": {"initializing": 1}}
            await world.rounds(*keepers, count=4)
            world.platform.health = NOBODY
    pauses = [later - earlier for earlier, later in itertools.pairwise(woken_at)]
    assert 10 < pauses[0] < 20
    assert all(later >= earlier for earlier, later in itertools.pairwise(pauses))
    assert max(pauses) <= 100 + 10
    assert world.platform.cancelled == ["job-1"]


async def test_the_job_is_taken_back_once_as_many_workers_start_as_are_wanted_and_not_before() -> None:
    world = World(router=Wants(2))
    keeper = world.keeper()
    await world.rounds(keeper, count=3)
    world.platform.health = {"workers": {"initializing": 1}, "jobs": {"inQueue": 1}}
    await world.rounds(keeper, count=5)
    assert world.platform.cancelled == []
    world.platform.health = {"workers": {"initializing": 2}, "jobs": {"inQueue": 1}}
    await world.rounds(keeper, count=5)
    assert world.platform.cancelled == ["job-1"]
    assert len(world.platform.jobs) == 1


async def test_a_worker_that_is_no_longer_wanted_before_anybody_starts_is_not_woken() -> None:
    world = World()
    keeper = world.keeper()
    await world.rounds(keeper, count=3)
    world.router.workers = 0
    await world.rounds(keeper, count=5)
    assert world.platform.cancelled == ["job-1"]
    world.router.workers = 1
    await world.rounds(keeper, count=10)
    assert len(world.platform.jobs) == 2


async def test_when_its_worker_was_seen_the_next_who_wants_one_need_not_wait_for_the_lease() -> None:
    world = World()
    keepers = world.keeper(), world.keeper()
    await world.rounds(*keepers, count=3)
    world.platform.health = {"workers": {"running": 1}}
    await world.rounds(*keepers, count=5)
    assert len(world.platform.jobs) == 1
    world.platform.health = NOBODY
    await world.rounds(*keepers, count=10)
    assert len(world.platform.jobs) == 2


async def test_a_worker_that_idles_is_kept_while_the_router_wants_it_by_one_replica_and_then_let_go() -> None:
    """A platform that lets a worker go 5 s after its last job, in whose place nobody is to be started."""
    world = World(Platform({"workers": {"idle": 1}}))
    keepers = world.keeper(), world.keeper()
    last, longest = world.now, 0.0
    for _ in range(60):
        before = len(world.platform.jobs)
        await world.rounds(*keepers)
        if len(world.platform.jobs) > before:
            last, longest = world.now, max(longest, world.now - last)
    assert longest <= 4
    assert 60 / 4 <= len(world.platform.jobs) <= 60 / 2.5
    world.router.workers, jobs = 0, len(world.platform.jobs)
    await world.rounds(*keepers, count=20)
    assert len(world.platform.jobs) == jobs


@pytest.mark.parametrize("health", [{"workers": {"idle": 1}}, NOBODY])
async def test_a_worker_that_is_always_on_needs_no_job_to_be_there(health: dict[str, object]) -> None:
    world = World(Platform(health), Wants(1, always_on=1))
    await world.rounds(world.keeper(), count=20)
    assert world.platform.jobs == []


async def test_reading_the_configuration_again_keeps_what_is_known() -> None:
    world = World(Platform({"workers": {"idle": 2}}), Wants(0))
    keeper = world.keeper()
    await world.rounds(keeper)
    keeper.round(Catalog(dict(CATALOG.providers), dict(CATALOG.models)), world.router)
    assert keeper.status().by_provider["own"].idle == 2
    await keeper.idle()
