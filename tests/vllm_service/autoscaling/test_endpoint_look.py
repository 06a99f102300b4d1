"""Endpoints whose workers are listed: what router, wakes and lives see of the list, of its faults, and of none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.vllm_service.configured_order import ConfiguredOrder
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.autoscaling.wake_lease import WakeSettings
from vllm_service.catalog.model import Catalog, Management, ManagementApi, Offer, Provider, ProviderKind, PublicModel
from vllm_service.domain.plan import ListedWorkers, WorkerTarget
from vllm_service.domain.pricing import SecondPrice
from vllm_service.runpod.endpoint import Reply, RunPodSettings
from vllm_service.runpod.health import EndpointHealth
from vllm_service.runpod.workers import EndpointWorkers
from vllm_service.storage.coordination.memory import MemoryWakes

RTX_4090, A40 = "NVIDIA GeForce RTX 4090", "NVIDIA A40"
BEGAN = 1_780_000_000
LEASE = WakeSettings(lease_seconds=100, retry_seconds=5)


def provider(name: str = "own") -> Provider:
    return Provider(
        name,
        ProviderKind.RUNPOD,
        f"http://x/v2/{name}/openai/v1",
        api_key="key",
        control_url=f"http://x/v2/{name}",
        second_price=SecondPrice.per_second("0.00031"),
        management=Management(name, "http://rest"),
    )


def catalog(*providers: Provider) -> Catalog:
    models = {one.name: PublicModel(one.name, (Offer(one.name, "there"),)) for one in providers}
    return Catalog({one.name: one for one in providers}, models)


def worker(status: str, worker_id: str = "w", gpu: str | None = RTX_4090, **more: Any) -> dict[str, Any]:
    return {"id": worker_id, "status": status, "gpuTypeId": gpu, "gpuCount": 1, "isStale": False, **more}


def at(second: float) -> str:
    return datetime.fromtimestamp(BEGAN + second, UTC).isoformat()


@dataclass
class Platform:
    """RunPod as far as it is looked at and woken. `listed`: a list, or a status that refuses it; None: no answer."""

    counted: Any = field(default_factory=lambda: {"workers": {"idle": 0}, "jobs": {"inQueue": 0}})
    listed: Any = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    jobs: int = 0

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        if method == "POST":
            self.jobs += "/cancel/" not in url
            return Reply(200, b'{"id": "job-%d"}' % self.jobs, {})
        self.asked.append(url)
        if url.endswith("/health"):
            return Reply(200, json.dumps(self.counted).encode(), {})
        if not url.endswith("/workers"):
            return Reply(200, b'{"workers": {"min": 0, "max": 3}}', {})
        if self.listed is None:
            raise TimeoutError
        if isinstance(self.listed, int):
            return Reply(self.listed, b"{}", {})
        return Reply(200, json.dumps({"workers": self.listed}).encode(), {})


class Wants(ConfiguredOrder):
    """A router that wants so many workers, and keeps what it is told."""

    def __init__(self, configured: Catalog, workers: int = 0) -> None:
        super().__init__(configured)
        self.providers = list(configured.providers)
        self.workers = workers
        self.told: list[tuple[dict[str, Any] | None, ListedWorkers | None]] = []

    def observe_health(
        self,
        provider: str,
        health: Mapping[str, object] | None,
        now_seconds: float,
        listed: ListedWorkers | None = None,
    ) -> None:
        workers: Any = None if health is None else health["workers"]
        self.told.append((workers, listed))

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        return tuple(WorkerTarget(name, self.workers, "demand") for name in self.providers)


@dataclass
class Lives:
    """Keeps what it is shown."""

    shown: list[tuple[str, str, EndpointWorkers | None, EndpointHealth | None, int]] = field(default_factory=list)

    def observe(
        self,
        provider: str,
        endpoint_id: str,
        workers: EndpointWorkers | None,
        health: EndpointHealth | None,
        now_us: int,
    ) -> None:
        self.shown.append((provider, endpoint_id, workers, health, now_us))


class World:
    """One replica's controller on a platform, and a clock that the test moves."""

    def __init__(self, *providers: Provider, replicas: int | None = 1, wanted: int = 0) -> None:
        self.now = 0.0
        self.catalog = catalog(*(providers or (provider(),)))
        self.platform = Platform()
        self.router = Wants(self.catalog, wanted)
        self.lives = Lives()
        self.controller = EndpointController(
            self.platform,
            MemoryWakes(lambda: self.now),
            RunPodSettings(),
            LEASE,
            lambda: self.now,
            replicas=replicas,
            lives=self.lives,
            wall_clock=lambda: BEGAN + self.now,
        )

    async def rounds(self, count: int = 1) -> None:
        for _ in range(count):
            self.controller.round(self.catalog, self.router)
            await self.controller.idle()
            self.now += 1.0

    @property
    def told(self) -> tuple[dict[str, Any] | None, ListedWorkers | None]:
        return self.router.told[-1]

    @property
    def is_listed(self) -> bool:
        return self.told[1] is not None

    @property
    def lists(self) -> int:
        return sum(url.endswith("/workers") for url in self.platform.asked)


async def test_the_list_counts_the_workers_and_health_the_jobs() -> None:
    world = World()
    world.platform.counted = {"workers": {"idle": 7}, "jobs": {"inQueue": 3, "inProgress": 2}}
    world.platform.listed = [worker("RUNNING", "a"), worker("INITIALIZING", "b", A40), worker("THROTTLED", "c", None)]
    await world.rounds()
    counts, listed = world.told
    assert counts == {"running": 1, "idle": 0, "initializing": 1, "throttled": 1, "unhealthy": 0, "leaving": 0}
    assert listed == ListedWorkers((), 0.000325)
    seen = world.controller.status().by_provider["own"]
    assert (seen.running, seen.initializing, seen.throttled, seen.jobs_queued, seen.jobs_in_progress) == (1, 1, 1, 3, 2)
    assert seen.by_gpu_type == {RTX_4090: 1, A40: 1}
    assert world.platform.asked.count("http://rest/v2/serverless/own/workers") == 1


async def test_a_cold_start_is_what_the_list_says_and_is_told_once() -> None:
    world = World()
    await world.rounds(4)
    world.platform.listed = [worker("INITIALIZING", startedAt=at(4))]
    await world.rounds(10)
    world.platform.listed = [worker("IDLE", startedAt=at(4))]
    await world.rounds(6)
    starts = [listed.cold_starts_seconds for _, listed in world.router.told if listed is not None]
    assert [each for each in starts if each != ()] == [(10.0,)]


async def test_a_stale_worker_leaves_when_one_of_the_present_version_is_warm() -> None:
    world = World()
    world.platform.listed = [worker("RUNNING", "old", isStale=True), worker("INITIALIZING", "new")]
    await world.rounds()
    counts, _ = world.told
    assert counts is not None
    assert (counts["running"], counts["initializing"], counts["leaving"]) == (1, 1, 0)
    world.platform.listed = [worker("RUNNING", "old", isStale=True), worker("IDLE", "new")]
    await world.rounds(3)
    counts, _ = world.told
    assert counts is not None
    assert (counts["running"], counts["idle"], counts["leaving"]) == (0, 1, 1)
    assert world.controller.status().by_provider["own"].leaving == 1


async def test_throttled_workers_are_not_waited_for_and_wake_no_storm() -> None:
    """The worker that a job has begun to start finds no GPU: another job is not sent before the lease has ended."""
    world = World(wanted=1)
    await world.rounds(3)
    assert world.platform.jobs == 1
    world.platform.listed = [worker("INITIALIZING")]
    await world.rounds(4)
    world.platform.listed = [worker("THROTTLED", gpu=None)]
    await world.rounds(90)
    assert world.platform.jobs == 1
    assert {counts["initializing"] for counts, _ in world.router.told[-80:] if counts is not None} == {0}
    await world.rounds(100)
    assert world.platform.jobs == 2


@pytest.mark.parametrize("status", [401, 403, 404, 410, 501])
async def test_where_the_list_is_refused_health_counts(status: int, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.platform.counted = {"workers": {"idle": 2}, "jobs": {}}
    world.platform.listed = status
    await world.rounds(100)
    assert set(map(str, world.router.told)) == {"({'idle': 2}, None)"}
    assert world.lists == 1
    assert len(caplog.messages) == 1
    assert world.controller.status().by_provider["own"].by_gpu_type is None


@pytest.mark.parametrize("listed", [500, 429, None])
async def test_a_fault_of_the_list_is_one_of_this_time(listed: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.platform.counted = {"workers": {"idle": 2}, "jobs": {}}
    world.platform.listed = [worker("IDLE")]
    await world.rounds(2)
    world.platform.listed = listed
    await world.rounds()
    assert world.told == ({"idle": 2}, None)
    world.platform.listed = [worker("IDLE")]
    await world.rounds(10)
    assert world.is_listed
    assert caplog.messages == []


async def test_a_list_without_health_still_shows_the_workers() -> None:
    world = World(wanted=1)
    world.platform.counted = "no health"
    world.platform.listed = [worker("IDLE")]
    await world.rounds(3)
    assert world.told[0] == {"running": 0, "idle": 1, "initializing": 0, "throttled": 0, "unhealthy": 0, "leaving": 0}


async def test_neither_is_an_endpoint_that_cannot_be_seen() -> None:
    world = World(wanted=1)
    world.platform.counted, world.platform.listed = "no health", None
    await world.rounds(20)
    assert world.told == (None, None)
    assert world.platform.jobs == 0


async def test_between_two_rare_lists_health_counts_and_leaving_workers_are_taken_off() -> None:
    """Ten endpoints share a key's sixty requests a minute: each is listed every twenty seconds."""
    world = World(*(provider(f"own-{number}") for number in range(10)))
    world.platform.listed = [worker("IDLE", "old", isStale=True), worker("RUNNING", "new")]
    world.platform.counted = {"workers": {"idle": 1, "running": 1}, "jobs": {}}
    await world.rounds(60)
    assert world.lists == 30
    world.platform.counted = {"workers": {"idle": 3, "running": 1, "ready": 4, "initializing": 1}, "jobs": {}}
    await world.rounds(1)  # a list and a count
    await world.rounds(7)
    assert world.told[0] == {"idle": 2, "running": 1, "ready": 3, "initializing": 1, "leaving": 1}
    assert world.told[1] == ListedWorkers((), 0.00031)


async def test_replicas_share_the_limit_and_an_unknown_number_of_them_list_nothing() -> None:
    for replicas, lists in ((1, 30), (5, 6), (None, 0)):
        world = World(replicas=replicas)
        await world.rounds(60)
        assert world.lists == lists, replicas


async def test_a_self_hosted_server_of_version_1_has_no_list() -> None:
    world = World(replace(provider(), management=Management("own", "http://rest", ManagementApi.V1)))
    await world.rounds(60)
    assert world.lists == 0


async def test_lives_are_shown_each_new_list_and_counts_only_where_there_is_none() -> None:
    world = World()
    world.platform.listed = [worker("RUNNING")]
    await world.rounds(5)
    assert [shown[4] for shown in world.lives.shown] == [(BEGAN + second) * 10**6 for second in (0, 2, 4)]
    name, endpoint_id, workers, health, _ = world.lives.shown[-1]
    assert (name, endpoint_id) == ("own", "own")
    assert workers is not None
    assert [each.id for each in workers.workers] == ["w"]
    assert health == EndpointHealth({"inQueue": 0}, {"idle": 0})
    world.lives.shown.clear()
    world.platform.listed = 403
    await world.rounds(6)
    assert [(shown[2], shown[3]) for shown in world.lives.shown] == 3 * [(None, health)]


async def test_a_type_without_a_price_is_said_once_and_costs_what_is_configured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.platform.listed = [worker("RUNNING", gpu="NVIDIA X9000")]
    await world.rounds(20)
    assert world.told[1] == ListedWorkers((), 0.00031)
    (said,) = caplog.messages
    assert said.startswith("own: a worker runs on NVIDIA X9000, whose price is not known: it counts as usd_per_second")
    world.platform.listed = [worker("RUNNING", str(number), gpu=f"NVIDIA X{number}") for number in range(500)]
    await world.rounds(20)
    assert len(caplog.messages) == 20
    by_gpu_type = world.controller.status().by_provider["own"].by_gpu_type
    assert by_gpu_type is not None
    assert len(by_gpu_type) == 20


async def test_a_price_by_agreement_cannot_be_that_of_two_types(caplog: pytest.LogCaptureFixture) -> None:
    world = World(replace(provider(), second_price=SecondPrice.per_second("0.00025")))
    world.platform.listed = [worker("RUNNING", "a")]
    await world.rounds(4)
    assert caplog.messages == []
    world.platform.listed = [worker("RUNNING", "a"), worker("RUNNING", "b", A40)]
    await world.rounds(4)
    assert [said.split(",")[0] for said in caplog.messages] == [
        f"own: a worker runs on {A40}",
        f"own: a worker runs on {RTX_4090}",
    ]


async def test_reading_the_configuration_again_keeps_the_list_and_its_pace() -> None:
    world = World()
    world.platform.listed = [worker("RUNNING")]
    await world.rounds(1)
    world.catalog = Catalog(dict(world.catalog.providers), dict(world.catalog.models))
    await world.rounds(1)
    assert world.lists == 1
    assert world.told[1] == ListedWorkers((), 0.00031)
    world.platform.listed = 403
    await world.rounds(10)
    asked = world.lists
    world.catalog = Catalog(dict(world.catalog.providers), dict(world.catalog.models))
    world.platform.listed = [worker("RUNNING")]  # the new configuration has another key
    await world.rounds(1)
    assert world.lists == asked + 1
    assert world.is_listed
