"""The comparison of providers: the price of a month's tokens, the savings, and what was measured of each. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from vllm_service.catalog.model import Catalog
from vllm_service.client.boundary import guarded
from vllm_service.client.results import Answer
from vllm_service.domain.money import to_usd
from vllm_service.domain.pricing import TokenPrice
from vllm_service.domain.usage import Usage
from vllm_service.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Offering:
    """A model at a provider. None means not known, or not measured."""

    provider: str
    model: str
    price: TokenPrice | None
    latency_ms: float | None = None
    tokens_per_second: float | None = None
    #: The source of the figures.
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """The time and the tokens of one whole answer."""

    provider: str
    model: str
    #: Above 0.
    latency_ms: float
    completion_tokens: int | None

    @classmethod
    def of(cls, answer: Answer) -> Measurement:
        """Returns what the client measured of an answer."""
        tokens = None if answer.usage is None else answer.usage.completion_tokens
        return cls(answer.provider, answer.model, answer.latency_ms, tokens)


# The example of the documents that this project began with (2026-11), kept so that the comparison can be repeated. Its
# prices and latencies were not measured here. The documents claim $200 and $1,000 a month; 10 M tokens at $0.02 per
# million are $0.20.
_SOURCE = "the documents' example, 2026-11; not measured here"
DOCUMENTED_EXAMPLE = (
    Offering("RunPod", "Llama-3.1-8B", TokenPrice.per_million("0.02", "0.02"), 1200.0, None, _SOURCE),
    Offering("Cerebras", "llama3.1-8b", TokenPrice.per_million("0.10", "0.10"), 945.0, None, _SOURCE),
)


@dataclass(frozen=True, slots=True)
class CostRow:
    """The cost of the volume at one provider."""

    offering: Offering
    monthly_picousd: int | None
    #: Against the baseline; negative if the provider is more expensive.
    savings_picousd: int | None
    savings_percentage: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns the row with dollars as numbers; null is unknown."""
        price = self.offering.price
        return {
            "provider": self.offering.provider,
            "model": self.offering.model,
            "usd_per_million_tokens": {
                "input": None if price is None else price.input_usd_per_million,
                "output": None if price is None else price.output_usd_per_million,
            },
            "latency_ms": self.offering.latency_ms,
            "tokens_per_second": self.offering.tokens_per_second,
            "monthly_usd": to_usd(self.monthly_picousd),
            "savings_usd": to_usd(self.savings_picousd),
            "savings_percentage": self.savings_percentage,
            "source": self.offering.source,
        }


@dataclass(frozen=True, slots=True)
class CostComparison:
    """The costs at all providers."""

    #: The cheapest first, those without a price last.
    rows: tuple[CostRow, ...]
    #: The provider that savings are counted against.
    baseline: str | None
    input_tokens: int
    output_tokens: int

    def to_json(self) -> dict[str, Any]:
        """Returns `{"monthly_tokens": {...}, "baseline", "providers": [...]}`."""
        return {
            "monthly_tokens": {"input": self.input_tokens, "output": self.output_tokens},
            "baseline": self.baseline,
            "providers": [row.to_json() for row in self.rows],
        }


@guarded
def compare_costs(
    offerings: Iterable[Offering],
    *,
    monthly_tokens: int = 10_000_000,
    output_share: float = 0.5,
    baseline: str | None = None,
) -> CostComparison:
    """Returns what `monthly_tokens` cost, of which `output_share` are generated. Raises InvalidRequest.

    baseline: the provider that savings are counted against; None: the most expensive one.
    """
    if monthly_tokens < 0 or not 0 <= output_share <= 1:
        raise InvalidRequest(
            "monthly_tokens: expected 0 or more; output_share: expected 0 to 1", param="monthly_tokens"
        )
    output_tokens = int(monthly_tokens * Decimal(str(output_share)))
    usage = Usage(monthly_tokens - output_tokens, output_tokens)
    costs = [
        (offering, None if offering.price is None else offering.price.cost_picousd(usage)) for offering in offerings
    ]
    costs.sort(key=lambda pair: (pair[1] is None, pair[1] or 0))
    against = _baseline(costs, baseline)
    base = None if against is None else against[1]
    rows = tuple(_row(offering, cost, base) for offering, cost in costs)
    return CostComparison(rows, against and against[0].provider, usage.prompt_tokens, usage.completion_tokens)


def offerings_of(catalog: Catalog, model: str) -> list[Offering]:
    """Returns all offers of a model of the catalog. Raises InvalidRequest if there is no such model.

    An own endpoint is paid by the second. Its price per token depends on its throughput, so it is unknown here.
    """
    if (public := catalog.models.get(model)) is None:
        raise InvalidRequest(
            f"model: expected one of {', '.join(sorted(catalog.models))}, got {model!r}", param="model"
        )
    return [Offering(offer.provider, offer.model, offer.price) for offer in public.offers]


def with_measurements(offerings: Iterable[Offering], measured: Iterable[Measurement | Answer]) -> list[Offering]:
    """Returns the offerings with the median latency and throughput of their providers' answers."""
    given: dict[tuple[str, str], list[Measurement]] = {}
    for one in measured:
        taken = one if isinstance(one, Measurement) else Measurement.of(one)
        given.setdefault((taken.provider, taken.model), []).append(taken)
    return [_measured(offering, given.get((offering.provider, offering.model), ())) for offering in offerings]


def _measured(offering: Offering, measured: Sequence[Measurement]) -> Offering:
    if not measured:
        return offering
    rates = [one.completion_tokens / one.latency_ms * 1000 for one in measured if one.completion_tokens is not None]
    return replace(
        offering,
        latency_ms=statistics.median(one.latency_ms for one in measured),
        tokens_per_second=statistics.median(rates) if rates else None,
    )


def _baseline(costs: Sequence[tuple[Offering, int | None]], name: str | None) -> tuple[Offering, int] | None:
    known = [(offering, cost) for offering, cost in costs if cost is not None]
    if name is None:
        return max(known, key=lambda pair: pair[1], default=None)
    for offering, cost in known:
        if offering.provider == name:
            return offering, cost
    raise InvalidRequest(f"baseline: expected a provider with a known price, got {name!r}", param="baseline")


def _row(offering: Offering, cost: int | None, base: int | None) -> CostRow:
    if cost is None or base is None:
        return CostRow(offering, cost, None, None)
    saved = base - cost
    return CostRow(offering, cost, saved, round(100 * saved / base, 2) if base else None)
