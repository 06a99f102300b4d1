"""The comparison of providers: the price of a month's tokens, the savings, and what was measured of each. No I/O."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind
from vllm_service.client.boundary import guarded
from vllm_service.client.results import Answer
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.money import to_usd
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.domain.usage import Usage
from vllm_service.errors import InvalidRequest
from vllm_service.routing.from_catalog import profile_of
from vllm_service.routing.profiles import EndpointProfile


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
    #: The price is no provider's list price but computed from a price per second: see `own_price`.
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """The time and the tokens of one whole answer."""

    provider: str
    model: str
    #: Above 0.
    latency_ms: float
    completion_tokens: int | None
    #: Of the ledger; None where they are unknown.
    usage: Usage | None = None
    cost_picousd: int | None = None
    cost_basis: CostBasis | None = None

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
                "is_estimate": self.offering.is_estimate,
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
        """Returns `{"monthly_tokens": {...}, "cost_basis", "baseline", "providers": [...]}`: months are expected."""
        return {
            "cost_basis": CostBasis.EXPECTED,
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

    An own endpoint is paid by the second. With a price per second its offer has the estimate of `own_price`.
    """
    if (public := catalog.models.get(model)) is None:
        raise InvalidRequest(
            f"model: expected one of {', '.join(sorted(catalog.models))}, got {model!r}", param="model"
        )
    return [_offering(catalog.providers.get(offer.provider), offer) for offer in public.offers]


def _offering(provider: Provider | None, offer: Offer) -> Offering:
    if provider is None or provider.kind is not ProviderKind.RUNPOD:
        return Offering(offer.provider, offer.model, offer.price)
    if provider.second_price is None:
        return Offering(
            offer.provider, offer.model, None, source=f"{provider.name} lacks usd_per_second in providers.yaml"
        )
    price = own_price(profile_of(provider), provider.second_price)
    return Offering(offer.provider, offer.model, price, source=OWN_SOURCE.format(provider.name), is_estimate=True)


#: Said of each own endpoint, by its name.
OWN_SOURCE = (
    "{} is paid by the second: ~ is the price of tokens in full workers at the speeds under `expected`, the least that "
    "they can cost; starts and idle seconds come on top, and --measured shows what the ledger has"
)
MEASURED_SOURCE = "{} is paid by the second: ~ is what the ledger has for its requests of the last week, {}"


def own_price(profile: EndpointProfile, second_price: SecondPrice) -> TokenPrice:
    """Returns what a token costs in a worker whose slots are all busy, as the router counts it: the least possible.

    A prompt takes `prefill_share` of the GPU while it is read, and leaves the rest to the answers.
    """
    per_second = second_price.picousd_per_microsecond * 10**6
    reading = profile.prefill_share * per_second / profile.prefill_tokens_per_second
    return TokenPrice(round(reading), round(per_second / profile.decode_tokens_per_second))


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
    booked = _booked(offering, measured) if offering.is_estimate else None
    return replace(
        offering,
        price=booked or offering.price,
        source=MEASURED_SOURCE.format(offering.provider, _bases(measured)) if booked else offering.source,
        latency_ms=statistics.median(one.latency_ms for one in measured),
        tokens_per_second=statistics.median(rates) if rates else None,
    )


def _booked(offering: Offering, measured: Sequence[Measurement]) -> TokenPrice | None:
    """Returns the offering's price, moved so that these requests cost what was booked; None where nothing was."""
    price = offering.price
    known = [(one.usage, one.cost_picousd) for one in measured if one.usage is not None and one.cost_picousd]
    expected = 0 if price is None else sum(price.cost_picousd(usage) for usage, _ in known)
    if price is None or not expected:
        return None
    share = Decimal(sum(cost for _, cost in known)) / expected
    return TokenPrice(round(price.input_picousd * share), round(price.output_picousd * share))


def _bases(measured: Sequence[Measurement]) -> str:
    """Returns how many of the costs rest on what: `12 expected, 30 booked`."""
    bases = Counter(one.cost_basis or "without a basis" for one in measured if one.cost_picousd)
    return ", ".join(f"{count} {basis}" for basis, count in sorted(bases.items()))


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
