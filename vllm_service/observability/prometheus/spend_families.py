"""The families of what a day has cost, from the ledger: by part, and by what it rests on. See docs/metrics.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vllm_service.domain.money import to_usd
from vllm_service.domain.spend import Spend
from vllm_service.domain.status import DaySpend
from vllm_service.observability.measurements import OTHER
from vllm_service.observability.prometheus.family import Family, Samples, Snapshot, gauge


def _spend(snapshot: Snapshot) -> Samples:
    """Yields dollars by day, provider, part and basis. A provider that is not configured any more is "other"."""
    sums: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
    for one in _days(snapshot):
        provider = one.spend.provider if one.spend.provider in snapshot.catalog.providers else OTHER
        for line in one.spend.lines:
            sums[one.day, provider, line.part.value, line.basis.value] += line.picousd
    return [(labels, to_usd(amount)) for labels, amount in sums.items()]


def _totals(snapshot: Snapshot) -> dict[str, Spend]:
    days = _days(snapshot)
    names = sorted({one.day for one in days})
    return {name: Spend.of(one.spend for one in days if one.day == name) for name in names}


def _days(snapshot: Snapshot) -> Sequence[DaySpend]:
    return () if snapshot.spent is None else snapshot.spent.days


def _baseline(snapshot: Snapshot) -> Samples:
    return (((day,), to_usd(spend.baseline_picousd)) for day, spend in _totals(snapshot).items())


def _savings(snapshot: Snapshot) -> Samples:
    return (((day,), to_usd(spend.saved_picousd)) for day, spend in _totals(snapshot).items())


SPEND: tuple[Family, ...] = (
    gauge(
        "vllm_spend_usd",
        "What today and yesterday (UTC) cost by the ledger, US dollars, by part: workers' seconds included",
        _spend,
        "day",
        "provider",
        "part",
        "basis",
    ),
    gauge(
        "vllm_spend_baseline_usd",
        "What the day's requests would have cost with the baseline model, US dollars",
        _baseline,
        "day",
    ),
    gauge(
        "vllm_cost_savings_usd",
        "The day's baseline less everything that was spent: booked and billed dollars where there are; may be negative",
        _savings,
        "day",
    ),
)
