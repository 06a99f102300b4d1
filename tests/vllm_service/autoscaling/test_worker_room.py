"""How many requests an endpoint is sent at once: what its workers hold, over all replicas, and enough to wake more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.vllm_service.autoscaling.test_controller import CATALOG, PROVIDER, Platform, Wants
from vllm_service.autoscaling.controller import EndpointController
from vllm_service.autoscaling.worker_room import WorkerRoom
from vllm_service.catalog.model import Catalog, WorkersMin
from vllm_service.http.pool import ConnectionPool
from vllm_service.runpod.health import EndpointHealth
from vllm_service.storage.coordination.memory import MemoryWakes
from vllm_service.testing import ScriptedProvider, chat

SLOTS = 32
FULL = WorkerRoom(SLOTS, max_workers=2, is_scaled_by_queue=True)


def health(warm: int, in_progress: int = 0, queued: int = 0) -> EndpointHealth:
    return EndpointHealth({"inProgress": in_progress, "inQueue": queued}, {"running": warm, "idle": 0})


@pytest.mark.parametrize(
    ("room", "seen", "own", "requests"),
    [
        pytest.param(FULL, health(2), 0, 64, id="all workers are there: what they hold"),
        pytest.param(FULL, health(2, 57), 57, 64, id="all jobs are this process's"),
        pytest.param(FULL, health(1), 0, 41, id="one may come: alone an organisation has 36 there, and 4 wait"),
        pytest.param(FULL, health(0), 0, 41, id="none is there: one worker's requests wake it"),
        pytest.param(replace(FULL, is_scaled_by_queue=False), health(1), 0, 32, id="the gateway scales by itself"),
        pytest.param(FULL, health(2, 20, 0), 10, 54, id="another process has 10 of 64"),
        pytest.param(FULL, health(2, 64, 64), 64, 32, id="two processes have as many each: half"),
        pytest.param(FULL, health(2, 64, 0), 0, 8, id="another process has all: enough to begin"),
        pytest.param(WorkerRoom(1, 1, True), health(1), 0, 1, id="a worker that takes one at a time"),
        pytest.param(FULL, EndpointHealth(), 0, None, id="workers that are not known"),
    ],
)
def test_what_an_endpoint_is_sent_at_once(
    room: WorkerRoom, seen: EndpointHealth, own: int, requests: int | None
) -> None:
    assert room.requests(seen, own) == requests


def test_a_room_needs_configured_slots() -> None:
    assert WorkerRoom.of(PROVIDER) is None
    expected = replace(PROVIDER, expected=(("slots", 8.0), ("max_workers", 3.0)))
    assert WorkerRoom.of(expected) == WorkerRoom(8, 3, is_scaled_by_queue=True)
    followed = replace(expected, workers_min=WorkersMin())
    assert WorkerRoom.of(followed) == WorkerRoom(8, 3, is_scaled_by_queue=False)


@dataclass
class Requests:
    """Keeps what it was limited to."""

    limits: list[tuple[str, int]] = field(default_factory=list)

    def taken(self, provider: str) -> int:
        return 0

    def limit(self, provider: str, requests: int) -> None:
        self.limits.append((provider, requests))


@pytest.mark.parametrize(
    ("platform_health", "limits"),
    [
        ({"workers": {"running": 2, "idle": 0}, "jobs": {}}, [("own", 16)]),
        (None, []),
        ({"jobs": {"inQueue": 3}}, []),
    ],
    ids=["seen", "no answer", "no workers in it"],
)
async def test_the_controller_limits_an_endpoint_by_each_look_at_its_workers(
    platform_health: Any, limits: list[tuple[str, int]]
) -> None:
    provider = replace(PROVIDER, expected=(("slots", 8.0), ("max_workers", 2.0)))
    requests = Requests()
    wakes = MemoryWakes(lambda: 0.0)
    controller = EndpointController(Platform(platform_health), wakes, clock=lambda: 0.0, requests=requests)
    controller.round(Catalog({"own": provider}, CATALOG.models), Wants(1))
    await controller.idle()
    assert requests.limits == limits


async def test_a_pool_keeps_its_limit_when_the_configuration_is_read_again() -> None:
    connections = ConnectionPool()
    async with ScriptedProvider(chat("x")) as upstream:
        provider = replace(PROVIDER, base_url=upstream.url)
        connections.limit("own", 3)
        await connections.send(provider, "/x", b"", b"{}")
        assert connections.status().by_provider["own"].capacity == 3
        connections.limit("own", 5)
        assert connections.status().by_provider["own"].capacity == 5
        again = replace(provider)
        await connections.send(again, "/x", b"", b"{}")
        assert (connections.status().by_provider["own"].capacity, connections.taken("own")) == (5, 0)
        connections.limit("own", 10**6)
        assert connections.status().by_provider["own"].capacity == provider.max_connections
        await connections.close()
