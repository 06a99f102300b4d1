"""What an account's endpoints and network volumes have cost, as costs that can be divided by time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from runpod_emulator.account.network_volumes import NetworkVolume
from runpod_emulator.account.serverless import ServerlessEndpoint
from runpod_emulator.billing.metered import MICROSECONDS, MeteredCost, Span, worker_cost
from runpod_emulator.billing.rates import BillingRates
from runpod_emulator.endpoint.registry import Worker


@dataclass(frozen=True)
class EndpointCosts:
    """The costs of one endpoint's workers, each with its own GPU's price."""

    gpu: tuple[MeteredCost, ...]
    disk: tuple[MeteredCost, ...]
    fee: tuple[MeteredCost, ...]


def endpoint_costs(endpoint: ServerlessEndpoint, rates: BillingRates) -> EndpointCosts:
    """Returns the costs until now. A worker's disk and fee are billed for the same seconds as its GPUs."""
    gpu, disk, fee = [], [], []
    for worker in endpoint.state.registry.all_workers():
        spans, usd_per_second = _spans(endpoint, worker), Fraction(worker.placement.usd_per_second)
        gpu.append(worker_cost(spans, usd_per_second))
        disk.append(worker_cost(spans, rates.disk_usd_per_second(worker.release.disk_gb)))
        fee.append(worker_cost(spans, usd_per_second * Fraction(rates.fee_share)))
    return EndpointCosts(tuple(gpu), tuple(disk), tuple(fee))


def volume_cost(volume: NetworkVolume, rates: BillingRates, now_us: int) -> MeteredCost:
    """Returns a network volume's cost from its creation until now, or until it was deleted, size by size."""
    ends = [begin for begin, _ in volume.sizes[1:]]
    ends.append(now_us if volume.deleted_at_us is None else volume.deleted_at_us)
    high_performance = volume.type == "HIGH_PERFORMANCE"
    return MeteredCost(
        tuple(
            Span(begin, end, rates.volume_usd_per_second(size_gb, high_performance=high_performance))
            for (begin, size_gb), end in zip(volume.sizes, ends, strict=True)
        )
    )


def _spans(endpoint: ServerlessEndpoint, worker: Worker) -> list[tuple[int, int]]:
    state = endpoint.state
    began_us = round(state.clock_began_at * MICROSECONDS)
    return [(began_us + begin, began_us + end) for begin, end in worker.meter.billed_spans(state.clock())]
