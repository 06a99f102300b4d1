"""GPUs that run out: which type a worker gets, workers that wait for one, and what each costs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.account.gpus import GPU_TYPES, in_pools
from runpod_emulator.account.stock import Level, Stock
from runpod_emulator.endpoint.registry import READY, State
from tests.runpod_emulator.rest_calls import RestCalls, rest_of
from tests.runpod_emulator.support import ECHO_WORKER
from tests.waiting import until

L4, A5000, RTX_3090 = in_pools(GPU_TYPES, ["AMPERE_24"])
(RTX_4090,) = in_pools(GPU_TYPES, ["ADA_24"])
CHOICE = (RTX_4090, L4, A5000, RTX_3090)


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        ({}, [RTX_4090, RTX_4090, RTX_4090]),
        ({"ADA_24": 1}, [RTX_4090, L4, L4]),
        ({"ADA_24": 0, "NVIDIA L4": 1}, [L4, A5000, A5000]),
        ({"ADA_24": 1, "AMPERE_24": 1}, [RTX_4090, L4, None]),
        ({"ADA_24": 0, "AMPERE_24": 2, "NVIDIA L4": 1}, [L4, A5000, None]),
        ({"ADA_24": 0, "AMPERE_24": 0}, [None, None, None]),
    ],
)
def test_a_worker_gets_the_first_type_that_has_room(limits: dict[str, int], taken: list[object]) -> None:
    stock = Stock(GPU_TYPES)
    for name, workers in limits.items():
        stock.limit(name, workers)
    assert [stock.take(CHOICE, must=False) for _ in range(3)] == taken


def test_a_place_that_is_given_back_is_taken_again_and_a_worker_that_must_run_takes_one_too_many() -> None:
    stock = Stock(GPU_TYPES)
    stock.limit("ADA_24", 1)
    only = (RTX_4090,)
    assert stock.take(only, must=False) is RTX_4090
    assert stock.take(only, must=False) is None
    assert stock.take(only, must=True) is RTX_4090
    assert stock.free(RTX_4090) == 0
    for _ in range(2):
        stock.give_back(RTX_4090.id)
    assert stock.free(RTX_4090) == 1
    stock.limit("ADA_24", None)
    assert stock.free(RTX_4090) is None


@pytest.mark.parametrize(
    ("workers", "level"),
    [(None, "HIGH"), (10, "HIGH"), (9, "MEDIUM"), (3, "MEDIUM"), (2, "LOW"), (1, "LOW"), (0, "NONE")],
)
def test_the_catalogue_names_the_stock(workers: int | None, level: Level) -> None:
    stock = Stock(GPU_TYPES)
    stock.limit(L4.id, workers)
    assert (stock.level(L4), stock.level(RTX_4090)) == (level, "HIGH")


@pytest.mark.parametrize(("name", "workers"), [("NO_24", 1), ("ADA_24", -1)])
def test_a_stock_that_cannot_be_is_refused(name: str, workers: int) -> None:
    with pytest.raises(ValueError, match=name):
        Stock(GPU_TYPES).limit(name, workers)


async def seen(rest: RestCalls, endpoint_id: str) -> tuple[list[tuple[Any, ...]], int]:
    """Returns status, GPU type and start of the workers, and how many /health has throttled."""
    workers = (await rest("GET", f"/v2/serverless/{endpoint_id}/workers")).json()["workers"]
    health = (await rest.client.get(f"/v2/{endpoint_id}/health")).json()["workers"]
    shown = [(worker["status"], worker["gpuTypeId"], worker["startedAt"] is not None) for worker in workers]
    return shown, health["throttled"]


async def test_a_worker_without_gpus_is_throttled_costs_nothing_and_starts_when_there_are_some() -> None:
    settings = EndpointSettings(max_workers=0, stop_grace_seconds=10)
    async with Emulator(settings, ECHO_WORKER, rest_quotas={}) as emulator, rest_of(emulator) as rest:
        emulator.account.stock.limit("ADA_24", 1)
        emulator.account.stock.limit("AMPERE_24", 1)
        gpu = {"pools": ["ADA_24", "AMPERE_24"], "count": 2}
        made = (await rest.created(gpu=gpu, workers={"min": 3, "max": 3}))["id"]
        state = emulator.account.endpoints[made].state
        workers = state.registry.workers
        await until(lambda: sum(worker.state in READY for worker in workers.values()) == 2)
        throttled = ("THROTTLED", None, False)
        assert await seen(rest, made) == (
            [("IDLE", "NVIDIA GeForce RTX 4090", True), ("IDLE", "NVIDIA L4", True), throttled],
            1,
        )
        assert len(state.registry.bill().lines) == 2
        answer = await rest("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=SERVERLESS")
        available = {gpu["id"]: gpu["availability"] for gpu in answer.json()["gpus"]}
        assert (available[RTX_4090.id], available["NVIDIA H200"]) == ("NONE", "HIGH")

        emulator.account.stock.limit("ADA_24", 2)
        await until(lambda: all(worker.state in READY for worker in workers.values()))
        assert [worker.placement.gpu_type_id for worker in workers.values()] == [RTX_4090.id, L4.id, RTX_4090.id]
        await rest("DELETE", f"/v2/serverless/{made}")
        await until(lambda: all(worker.state is State.STOPPED for worker in workers.values()))
        assert (emulator.account.stock.free(RTX_4090), emulator.account.stock.free(L4)) == (2, 1)
    prices = [Decimal("0.00062"), Decimal("0.00038"), Decimal("0.00062")]
    lines = state.registry.bill().lines
    assert [line.usd for line in lines] == [
        line.billed_seconds * price for line, price in zip(lines, prices, strict=True)
    ]
    assert emulator.account.bills()[made].total_usd == sum(line.usd for line in lines)


async def test_a_throttled_worker_that_no_job_needs_any_more_is_gone() -> None:
    async with (
        Emulator(EndpointSettings(), ECHO_WORKER, rest_quotas={}) as emulator,
        rest_of(emulator) as rest,
    ):
        emulator.account.stock.limit("AMPERE_24", 0)
        job = (await rest.client.post("/v2/local/run", json={"input": {"a": 1}})).json()["id"]
        await until(emulator.endpoint.registry.throttled)
        await rest.client.post(f"/v2/local/cancel/{job}")
        await until(lambda: not emulator.workers)
    assert emulator.bill().lines == ()


async def test_a_worker_that_was_started_elsewhere_runs_whatever_the_stock_is() -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        emulator.account.stock.limit("AMPERE_24", 0)
        emulator.endpoint.registry.mark_ready("mine")
        assert await seen(rest, "local") == ([("IDLE", "NVIDIA L4", True)], 0)
