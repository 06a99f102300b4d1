"""Waking an endpoint while its workers are killed, its /health is late or silent, and replicas want the same."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from runpod_emulator.endpoint.faults import Faults
from runpod_emulator.endpoint.registry import READY
from tests.e2e.gated import KEY, SETTINGS, VARIABLES, Callers, Gated, gated
from tests.e2e.gateway import command, gateway, variables_of
from tests.servers import RedisServer
from tests.waiting import until

SECONDS = 120  # for what takes a few, unless other tests share the cores


async def killed_while_waking(endpoint: Gated, times: int) -> None:
    """Each worker that starts is killed before it is ready; then, in a while, another one is woken."""
    for number in range(times):
        await until(lambda number=number: len(endpoint.workers) > number, SECONDS)  # type: ignore[misc]
        assert endpoint.wakes <= 1 + number
        await endpoint.kill(endpoint.workers[number])


async def test_a_worker_that_is_killed_while_it_is_woken_costs_its_seconds_and_no_request(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling():
                await killed_while_waking(endpoint, 2)
                answered, looks = callers.by["hosted"], endpoint.looks
                await until(lambda: callers.by["hosted"] > answered + 20, SECONDS)  # served while it is cold
                await until(lambda: endpoint.looks > looks + 3, SECONDS)
                assert endpoint.wakes <= 3
                assert callers.by["own"] == 0
                endpoint.open()
                await until(lambda: callers.by["own"] > 20, SECONDS)
        assert callers.wrong == []
        assert len(endpoint.workers) == 3
        await _reconciles(endpoint, tmp_path)


async def test_one_wake_starts_one_worker_however_long_it_loads(tmp_path: Path) -> None:
    """While the job waited, a platform that scales by queue delay would start one more every five seconds."""
    settings = replace(SETTINGS, max_workers=3, queue_delay_seconds=5)
    async with gated(tmp_path, settings) as endpoint:
        endpoint.configure(tmp_path)
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling():
                await until(lambda: endpoint.workers != [], SECONDS)
                looks = endpoint.looks
                await until(lambda: endpoint.looks > looks + 8, SECONDS)
                endpoint.open()
                await until(lambda: callers.by["own"] > 20, SECONDS)
                assert len(endpoint.workers) == 1
        assert callers.wrong == []


async def test_two_replicas_wake_an_endpoint_once_also_when_its_worker_is_killed(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    redis_server.empty()
    async with gated(tmp_path) as endpoint:
        for name in ("first", "second"):
            endpoint.configure(tmp_path / name)
        variables = VARIABLES | {"REDIS_URL": redis_server.url}
        async with (
            gateway(tmp_path / "first", **variables) as first,
            gateway(tmp_path / "second", **variables) as second,
        ):
            callers = Callers([first, second])
            async with callers.calling(6):
                await killed_while_waking(endpoint, 1)
                await until(lambda: len(endpoint.workers) > 1, SECONDS)
                seen = callers.by_gateway.copy()
                await until(
                    lambda: all(callers.by_gateway[n, "hosted"] > seen[n, "hosted"] + 40 for n in (0, 1)), SECONDS
                )
                assert endpoint.wakes <= 2
                endpoint.open()
                await until(lambda: all(callers.by_gateway[number, "own"] > 10 for number in (0, 1)), SECONDS)
        assert callers.wrong == []
        logs = ((tmp_path / name / "log").read_bytes() for name in ("first", "second"))
        assert sum(log.count(b"being woken") for log in logs) <= 2


async def test_an_endpoint_whose_health_is_silent_is_woken_once_it_can_be_seen_and_not_before(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        endpoint.open()
        endpoint.emulator.inject(Faults(health_silent=True, management="error"))  # nor are its workers listed
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling():
                # Each look that fails doubles the time to the next: by then the router has wanted a worker for long.
                await until(lambda: endpoint.looks >= 5, SECONDS)
                assert (endpoint.workers, endpoint.queued) == ([], 0)
                assert callers.by["own"] == 0
                endpoint.emulator.inject(Faults())
                await until(lambda: callers.by["own"] > 20, SECONDS)
                assert len(endpoint.workers) == 1
        assert callers.wrong == []


async def test_health_that_is_seconds_late_wakes_nobody_twice_and_a_worker_that_has_gone_loses_no_request(
    tmp_path: Path,
) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        endpoint.open()
        endpoint.emulator.inject(Faults(health_late_seconds=4))
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running], {"x-request-timeout-ms": "2000"})
            async with callers.calling():
                await until(lambda: any(worker.state in READY for worker in endpoint.workers), SECONDS)
                await until(lambda: callers.by["own"] > 0, SECONDS)
                assert endpoint.warm_ups <= 2  # the wake, and one that kept the worker once it was seen
                endpoint.gate.unlink()
                await endpoint.kill(endpoint.workers[0])
                answered = callers.by["hosted"]
                await until(lambda: callers.by["hosted"] > answered + 40, SECONDS)
                assert len(endpoint.workers) <= 2
                own = callers.by["own"]
                endpoint.open()
                await until(lambda: callers.by["own"] > own, SECONDS)
        assert callers.wrong == []


async def test_reading_the_configuration_again_keeps_a_worker_in_use(tmp_path: Path) -> None:
    async with gated(tmp_path) as endpoint:
        endpoint.configure(tmp_path)
        endpoint.open()
        async with gateway(tmp_path, **VARIABLES) as running:
            callers = Callers([running])
            async with callers.calling():
                await until(lambda: callers.by["own"] > 20, SECONDS)
                looks, hosted = endpoint.looks, callers.by["hosted"]
                running.process.send_signal(signal.SIGHUP)
                await until(lambda: b"read again" in (tmp_path / "log").read_bytes(), SECONDS)
                await until(lambda: endpoint.looks > looks + 3, SECONDS)
                assert callers.by["hosted"] <= hosted + 4  # those that were under way
        assert callers.wrong == []
        assert len(endpoint.workers) == 1


async def _reconciles(endpoint: Gated, directory: Path) -> None:
    """The bill is booked to the last unit: the killed workers, which served nobody, to nobody."""
    await endpoint.kill(endpoint.workers[-1])
    arguments = ("--bill", f"{endpoint.emulator.url}/billing", "--provider", "own", "--json")
    report: dict[str, Any] = json.loads(
        await command("reconcile", *arguments, **variables_of(directory, RUNPOD_API_KEY=KEY))
    )
    bill, parts = endpoint.emulator.bill(), report["attribution"]
    assert round(Decimal(sum(parts.values())), 12) == bill.total_usd
    killed = sum((line.usd for line in bill.lines if not line.running_seconds), Decimal(0))
    assert round(Decimal(parts["nobody_usd"]), 12) == killed > 0
