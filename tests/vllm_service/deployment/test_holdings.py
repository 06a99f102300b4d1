"""What a deployment has costs an hour: exact where it is known, unknown as soon as one part is not."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from vllm_service.deployment.existing import Existing, Kind
from vllm_service.deployment.holdings import holdings_of
from vllm_service.deployment.prices import HOURS_PER_MONTH, GpuPrices, shipped_prices
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker, WorkerStatus

L4, H100 = "NVIDIA L4", "NVIDIA H100 PCIe"
VOLUME = {"id": "v1", "name": "models", "size": 50, "dataCenter": "EU-RO-1"}
ENDPOINT: dict[str, Any] = {
    "id": "ep1",
    "name": "chat",
    "workers": {"min": 0, "max": 3},
    "gpu": {"pools": ["AMPERE_24", "ADA_80_PRO"], "count": 2},
}
RUNNING = SeenWorker("w1", WorkerStatus.RUNNING, gpu_type=L4, gpu_count=2)
IDLE = SeenWorker("w2", WorkerStatus.IDLE, gpu_type=H100, gpu_count=1)
THROTTLED = SeenWorker("w3", WorkerStatus.THROTTLED)
LOADING = SeenWorker("w4", WorkerStatus.INITIALIZING, gpu_type=L4, gpu_count=1)
NAMELESS = SeenWorker("w5", WorkerStatus.IDLE)


def endpoint_costs(
    workers: EndpointWorkers | None, changes: dict[str, Any] | None = None, prices: GpuPrices | None = None
) -> tuple[Decimal | None, Decimal | None, str]:
    """What the endpoint costs an hour now and without requests, and the note."""
    existing = Existing(endpoints=({**ENDPOINT, **(changes or {})},))
    (item,) = holdings_of(existing, {"ep1": workers}, prices or shipped_prices()).items
    return item.usd_per_hour, item.idle_usd_per_hour, item.note


@pytest.mark.parametrize(
    ("workers", "usd"),
    [
        ((), "0"),
        ((RUNNING,), "1.368"),  # 2 x 0.00019 x 3600
        ((RUNNING, IDLE), "5.544"),
        ((RUNNING, THROTTLED), "1.368"),
        ((RUNNING, LOADING), None),  # it may pull its image, which is not billed, or load its model, which is
        ((NAMELESS,), None),
    ],
)
def test_workers_that_are_billed_cost_their_own_gpus(workers: tuple[SeenWorker, ...], usd: str | None) -> None:
    found, idle, _ = endpoint_costs(EndpointWorkers(workers))
    assert found == (None if usd is None else Decimal(usd))
    assert idle == 0


def test_workers_that_cannot_be_seen_cost_an_unknown_amount() -> None:
    assert endpoint_costs(None) == (None, Decimal(0), "workers 0 to 3; now workers unknown")


@pytest.mark.parametrize(
    ("changes", "usd"),
    [
        ({"workers": {"min": 2, "max": 3}}, "16.704"),  # of the dearest pool: 2 workers x 2 GPUs x 0.00116 x 3600
        ({"workers": {"min": 1, "max": 3}, "gpu": {"pools": ["AMPERE_24", "NEW"], "count": 1}}, None),
        ({"workers": {"min": 1, "max": 3}, "gpu": None}, None),
        ({"workers": {"min": 1, "max": 3}, "gpu": {"pools": "ADA_24", "count": 1}}, None),
        ({"workers": {"min": "one"}}, None),
        ({"workers": {"min": True}}, None),
        ({"workers": {"min": -1}}, None),
        ({"workers": {"min": 10**30}}, None),
        ({"workers": None}, None),
    ],
)
def test_always_running_workers_cost_at_most_the_dearest_pool(changes: dict[str, Any], usd: str | None) -> None:
    assert endpoint_costs(EndpointWorkers(), changes)[1] == (None if usd is None else Decimal(usd))


@pytest.mark.parametrize(
    ("size", "usd_per_month", "note"),
    [
        (50, "3.50", "50 GB in EU-RO-1, billed until it is deleted"),
        (0, None, "size unknown"),
        (10**9, None, "size unknown"),
        ("50", None, "size unknown"),
        (None, None, "size unknown"),
    ],
)
def test_a_volume_is_billed_whether_it_is_used_or_not(size: object, usd_per_month: str | None, note: str) -> None:
    existing = Existing(volumes=({**VOLUME, "size": size},))
    (item,) = holdings_of(existing, {}, shipped_prices()).items
    assert (item.kind, item.id, item.note) == (Kind.VOLUME, "v1", note)
    assert item.usd_per_hour == item.idle_usd_per_hour
    assert item.usd_per_hour == (None if usd_per_month is None else Decimal(usd_per_month) / HOURS_PER_MONTH)


def test_a_sum_is_unknown_as_soon_as_one_part_is() -> None:
    existing = Existing(volumes=(VOLUME,), templates=({"id": "t1", "name": "chat"},), endpoints=(ENDPOINT,))
    known = holdings_of(existing, {"ep1": EndpointWorkers((RUNNING,))}, shipped_prices())
    volume = Decimal("3.50") / HOURS_PER_MONTH
    assert (known.usd_per_hour, known.idle_usd_per_hour) == (Decimal("1.368") + volume, volume)
    assert [item.usd_per_hour for item in known.items if item.kind is Kind.TEMPLATE] == [0]
    unknown = holdings_of(existing, {"ep1": EndpointWorkers((LOADING,))}, shipped_prices())
    assert (unknown.usd_per_hour, unknown.idle_usd_per_hour) == (None, volume)


def test_nothing_costs_nothing() -> None:
    nothing = holdings_of(Existing(), {}, shipped_prices())
    assert nothing.items == ()
    assert (nothing.usd_per_hour, nothing.idle_usd_per_hour) == (Decimal(0), Decimal(0))


def test_a_price_that_is_not_known_is_no_zero() -> None:
    prices = GpuPrices({}, {}, "nowhere")
    found, idle, _ = endpoint_costs(EndpointWorkers((RUNNING,)), {"workers": {"min": 1, "max": 1}}, prices)
    assert (found, idle) == (None, None)
