"""A RunPod that has a management API, replicas whose endpoints' workersMin follows their routers, and a hand clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.vllm_service.configured_order import ConfiguredOrder
from tests.waiting import turns
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.autoscaling.workers_min import FollowSettings
from vllm_service.catalog.model import Catalog, Management, Offer, Provider, ProviderKind, PublicModel, WorkersMin
from vllm_service.domain.plan import WorkerTarget
from vllm_service.domain.pricing import SecondPrice
from vllm_service.runpod.endpoint import Reply, RunPodSettings
from vllm_service.storage.coordination.memory import MemoryTargets, MemoryWakes

KEY = "sk-hunter2"
PLACE = Management("ep", "http://rest")
PROVIDER = Provider(
    *("own", ProviderKind.RUNPOD, "http://x/v2/ep/openai/v1", KEY),
    control_url="http://x/v2/ep",
    second_price=SecondPrice(310),
    expected=(("max_workers", 3.0),),
    management=PLACE,
    workers_min=WorkersMin(),
)
IDLE: dict[str, Any] = {"workers": {"idle": 1, "running": 0, "initializing": 0}, "jobs": {"inQueue": 0}}


def catalog_of(*providers: Provider) -> Catalog:
    """One model that all of them serve."""
    offers = tuple(Offer(provider.name, "there") for provider in providers)
    return Catalog({provider.name: provider for provider in providers}, {"m": PublicModel("m", offers)})


@dataclass
class Managed:
    """RunPod. most: an order for more is refused. set_to, set_at: each workersMin that was ordered, and when.

    fails: what a PATCH comes to instead: a status or a body; "hang" until it is released, and then done; "lost": it is
    done, and the answer lost.
    """

    clock: Any
    workers_min: int = 0
    most: int = 99
    workers_max: int | None = None
    fails: int | bytes | str | None = None
    health: Any = field(default_factory=lambda: IDLE)
    set_to: list[int] = field(default_factory=list)
    set_at: list[float] = field(default_factory=list)
    patches: int = 0
    asked: list[str] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        self.asked.append(f"{method} {url}")
        if url.endswith("/health"):
            return Reply(503 if self.health is None else 200, json.dumps(self.health).encode(), {})
        if url.endswith("/run"):
            return Reply(200, b'{"id": "job"}', {})
        assert url == PLACE.url
        assert headers["authorization"] == f"Bearer {KEY}"
        if method == "PATCH":
            self.patches += 1
            if (failure := await self._failure()) is not None:
                return failure
            if (wanted := json.loads(body)["workers"]["min"]) > self.most:
                return Reply(400, b"{}", {})
            self.workers_min = wanted
            self.set_to.append(self.workers_min)
            self.set_at.append(self.clock())
            if self.fails == "lost":
                raise TimeoutError
        return Reply(
            200, json.dumps({"id": "ep", "workers": {"min": self.workers_min, "max": self.workers_max}}).encode(), {}
        )

    async def _failure(self) -> Reply | None:
        if self.fails == "hang":
            self.hanging.set()
            await self.released.wait()
        if isinstance(self.fails, bytes):
            return Reply(200, self.fails, {})
        return Reply(self.fails, b"{}", {}) if isinstance(self.fails, int) else None


class Wants(ConfiguredOrder):
    """A router that wants so many workers of each endpoint."""

    def __init__(self, workers: int, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.workers = workers
        self.catalog = catalog
        self.most: dict[str, int | None] = {}

    def observe_most_workers(self, provider: str, workers: int | None) -> None:
        self.most[provider] = workers

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        return tuple(
            WorkerTarget(
                name, self.workers if (most := self.most.get(name)) is None else min(self.workers, most), "demand"
            )
            for name in self.catalog.providers
        )


@dataclass
class Replica:
    """One gateway: its keeper, and what its router wants."""

    keeper: EndpointController
    router: Wants


class World:
    """Replicas on one platform, sharing their leases and words."""

    def __init__(self, *providers: Provider, platform: Managed | None = None) -> None:
        self.now = 0.0
        self.platform = platform or Managed(self.clock)
        self.platform.clock = self.clock
        self.catalog = catalog_of(*(providers or (PROVIDER,)))
        self.wakes, self.targets = MemoryWakes(self.clock), MemoryTargets(self.clock)

    def clock(self) -> float:
        return self.now

    def replica(self, workers: int) -> Replica:
        keeper = EndpointController(
            *(self.platform, self.wakes, RunPodSettings(), None, self.clock),
            targets=self.targets,
            follow_settings=FollowSettings(leave_seconds=0.2, leave_retry_seconds=0.01),
        )
        return Replica(keeper, Wants(workers, self.catalog))

    async def rounds(self, *replicas: Replica, count: int = 1) -> None:
        for _ in range(count):
            for replica in replicas:
                replica.keeper.round(self.catalog, replica.router)
            for replica in replicas:
                await replica.keeper.idle()
            self.now += 1.0

    async def begun(self, replica: Replica) -> None:
        """A round, of which something may hang; two seconds."""
        replica.keeper.round(self.catalog, replica.router)
        await turns(50)
        self.now += 2.0

    async def until_it_hangs(self, replica: Replica) -> None:
        async with asyncio.timeout(10):
            while not self.platform.hanging.is_set():
                await self.begun(replica)


def other(name: str, **changes: Any) -> Provider:
    """A second endpoint beside `own`."""
    return replace(PROVIDER, name=name, control_url=f"http://x/v2/{name}", **changes)
