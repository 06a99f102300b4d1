"""Reads what the gateway and the bills count, and makes lines of what happens: spilling over, waking, saving."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx

from scripts.try_gateway.configuration import ENDPOINT_ID, HOSTED, OWN

#: The span between two lines of sums.
_SUMS_SECONDS = 10.0
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Look:
    """The counts until one moment."""

    #: Completed requests by provider.
    answered: dict[str, int]
    failed_over: int
    starting: int
    warm: int
    #: What the own worker has cost, by the emulated RunPod's bill.
    worker_usd: Decimal
    #: What the hosted providers have billed.
    hosted_usd: Decimal
    #: What hosted providers alone would have billed for all answers.
    baseline_usd: Decimal

    @property
    def spent_usd(self) -> Decimal:
        """Returns both bills together."""
        return self.worker_usd + self.hosted_usd

    @property
    def own_share(self) -> float:
        """Returns the share of answers that the own worker gave, 0 to 1."""
        return self.answered.get(OWN, 0) / (sum(self.answered.values()) or 1)


@dataclass(slots=True)
class Story:
    """Turns looks into lines: events when they happen, sums every ten seconds."""

    _before: Look | None = None
    _sums_at: float = 0.0
    _happened: set[str] = field(default_factory=set)

    def lines(self, seconds: float, look: Look) -> Iterator[str]:
        """Yields what is new since the look before. seconds: since the traffic began."""
        before, self._before = self._before, look
        for name, event in self._events(before, look):
            # Failing over happens often and is shown once; a worker that comes and goes is shown each time.
            if name not in self._happened:
                yield f"{seconds:5.0f} s  {event}"
            if name == "failed over":
                self._happened.add(name)
        if seconds - self._sums_at >= _SUMS_SECONDS:
            self._sums_at = seconds
            yield f"{seconds:5.0f} s  {sums(look)}"

    def _events(self, before: Look | None, look: Look) -> Iterator[tuple[str, str]]:
        if before is None:
            yield "began", "requests come; no worker runs, so the hosted providers answer (spill-over)"
            return
        if look.failed_over > before.failed_over:
            yield "failed over", f"{HOSTED[0]} refused a request; {HOSTED[1]} answered it (failing over)"
        if look.starting + look.warm > 0 and before.starting + before.warm == 0:
            yield "woken", "a worker is worth its price now: the gateway wakes one"
        if look.warm > 0 and before.warm == 0:
            yield "warm", "the worker is warm and takes the requests"
        if look.starting + look.warm == 0 and before.starting + before.warm > 0:
            yield "stopped", "the worker has stopped: nothing is billed until it is woken again"


def sums(look: Look) -> str:
    """Returns a line of the sums so far."""
    saved = look.baseline_usd - look.spent_usd
    share = f"{100 * saved / look.baseline_usd:+.0f} %" if look.baseline_usd else "nothing to compare yet"
    return (
        f"{sum(look.answered.values()):5d} answers, {100 * look.own_share:3.0f} % own; spent ${look.spent_usd:.4f} "
        f"(worker ${look.worker_usd:.4f}, hosted ${look.hosted_usd:.4f}), hosted alone ${look.baseline_usd:.4f}: "
        f"saved {share}"
    )


async def look(client: httpx.AsyncClient, gateway_url: str, emulator_url: str) -> Look:
    """Returns what is counted now: requests by the gateway's metrics, dollars by the emulator's bills."""
    metrics, workers, *hosted = await asyncio.gather(
        client.get(f"{gateway_url}/metrics"),
        client.get(f"{emulator_url}/v2/{ENDPOINT_ID}/billing"),
        *(client.get(f"{emulator_url}/hosted/{name}/bill") for name in HOSTED),
    )
    samples = [(name, labels or "", float(value)) for name, labels, value in _SAMPLE.findall(metrics.text)]

    def total(metric: str, label: str = "") -> float:
        return sum(value for name, labels, value in samples if name == metric and label in labels)

    return Look(
        answered={name: int(total("vllm_provider_requests_total", f'provider="{name}"')) for name in (OWN, *HOSTED)},
        failed_over=int(total("vllm_router_fallbacks_total")),
        starting=int(total("vllm_workers_initializing")),
        warm=int(total("vllm_workers_idle") + total("vllm_workers_running")),
        worker_usd=_usd(workers.json()),
        hosted_usd=sum((_usd(bill.json()) for bill in hosted), Decimal(0)),
        baseline_usd=Decimal(str(total("vllm_baseline_cost_usd_total"))),
    )


def _usd(bill: dict[str, Any]) -> Decimal:
    return Decimal(bill.get("total_usd") or bill["usd"])
