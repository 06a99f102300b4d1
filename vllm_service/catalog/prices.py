"""Hosted prices from the genai-prices package, offline. A price that it does not state exactly stays unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from vllm_service.domain.pricing import TokenPrice

#: Charges that do not follow from text tokens: with one of these a request's cost is unknown.
BEYOND_TOKENS = ("requests_kcount", "input_mchars", "output_reasoning_mtok", "output_citation_mtok")


@dataclass(frozen=True, slots=True)
class Quote:
    """A price, or the reason why there is none."""

    price: TokenPrice | None
    #: Empty if there is a price.
    reason: str = ""


class PackagePrices:
    """The price package's prices at one time. The package is imported at the first quote: 0.2 s, 29 MB (2026-11).

    A model is found by its exact name or an exact alias of the package. The package's patterns are not used: they
    would also give a price to models that it has never seen.
    """

    def __init__(self, at: datetime | None = None) -> None:
        self._at = at or datetime.now(UTC)
        self._models: dict[str, dict[str, Any]] = {}

    def quote(self, source: str, model: str, context_length: int | None = None, *, output: bool = True) -> Quote:
        """Returns the price of `model` at `source`, the package's name of the provider.

        context_length: a price that rises with the prompt's length is used only if no prompt can reach its first step.
        output: False for embeddings, which have no output and no price for it.
        """
        found = self._listed(source).get(model.lower())
        if found is None:
            return Quote(None, f"genai-prices lists no {model} at {source}")
        prices = found.get_prices(self._at)
        beyond = [name for name in BEYOND_TOKENS if getattr(prices, name, None) is not None]
        if beyond:
            return Quote(None, f"{source} charges more than tokens for {model}: {', '.join(beyond)}")
        try:
            input_price, output_price, cached_price = [
                _flat(getattr(prices, f"{name}_mtok"), context_length) for name in ("input", "output", "cache_read")
            ]
        except ValueError as error:
            return Quote(None, f"{model} at {source}: {error}")
        if input_price is None or (output_price is None and output):
            return Quote(None, f"genai-prices lacks the input or the output price of {model} at {source}")
        try:
            return Quote(TokenPrice.per_million(input_price, output_price or 0, cached_price))
        except ValueError as error:
            return Quote(None, f"{model} at {source}: {error}")

    def _listed(self, source: str) -> dict[str, Any]:
        if source not in self._models:
            from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  only a quote pays for it

            listed = self._models[source] = {}
            providers = [provider for provider in get_snapshot().providers if provider.id == source]
            for model in (model for provider in providers for model in provider.models):
                for name in (model.id.lower(), *_names(model.match)):
                    listed.setdefault(name, model)  # the first match counts, as in the package
        return self._models[source]


def _names(clause: Any) -> Iterator[str]:
    """Yields the exact names of a match clause and of its alternatives."""
    if hasattr(clause, "equals"):
        yield clause.equals.lower()
    for part in getattr(clause, "or_", ()):
        yield from _names(part)


def _flat(price: Any, context_length: int | None) -> Decimal | None:
    """Returns the price below its first step. Raises ValueError if prompts can be longer than that."""
    if price is None or isinstance(price, Decimal):
        return price
    first = min(tier.start for tier in price.tiers)
    if context_length is None or context_length > first:
        raise ValueError(f"the price rises at {first} prompt tokens; set context_length to that, or prices in the file")
    base: Decimal = price.base
    return base
