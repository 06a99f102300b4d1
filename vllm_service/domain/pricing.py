"""Prices of tokens and of seconds. A price that is not known is None where it is kept, never a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from vllm_service.domain.money import picousd_per_microsecond, picousd_per_token, to_usd
from vllm_service.domain.usage import Usage

#: The most that one request is counted as: ten thousand dollars, so that no sum of a month passes 64 bits.
MOST_PICOUSD = 10**16


class UnpricedOffers(StrEnum):
    """The treatment of offers of unknown price where a budget in dollars has to hold."""

    #: They get no requests of an organisation that has such a budget.
    REFUSE = "refuse"
    #: They get requests, which count as nothing.
    ALLOW = "allow"
    #: They get requests, which count at the price of the model's dearest offer, else of the dearest of all.
    ESTIMATE = "estimate"


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Pico-dollars per token."""

    input_picousd: int
    output_picousd: int
    #: None: the provider gives no discount, so a cached token costs `input_picousd`.
    cached_input_picousd: int | None = None

    @classmethod
    def per_million(
        cls,
        input_usd: Decimal | str | int,
        output_usd: Decimal | str | int,
        cached_input_usd: Decimal | str | int | None = None,
    ) -> TokenPrice:
        """Makes a price from dollars per million tokens. Raises ValueError as money.picousd_per_token does."""
        cached = None if cached_input_usd is None else picousd_per_token(cached_input_usd)
        return cls(picousd_per_token(input_usd), picousd_per_token(output_usd), cached)

    @property
    def input_usd_per_million(self) -> float:
        """Dollars per million prompt tokens, for JSON and people."""
        return to_usd(self.input_picousd * 10**6)

    @property
    def output_usd_per_million(self) -> float:
        """Dollars per million completion tokens, for JSON and people."""
        return to_usd(self.output_picousd * 10**6)

    @property
    def cached_input_usd_per_million(self) -> float | None:
        """Dollars per million cached prompt tokens, for JSON and people; None as `cached_input_picousd`."""
        return None if self.cached_input_picousd is None else to_usd(self.cached_input_picousd * 10**6)

    def cost_picousd(self, usage: Usage) -> int:
        """Returns the exact pico-dollars of these tokens."""
        if not usage.cached_tokens:
            return usage.prompt_tokens * self.input_picousd + usage.completion_tokens * self.output_picousd
        cached_price = self.input_picousd if self.cached_input_picousd is None else self.cached_input_picousd
        # Cached tokens are part of the prompt's, so they are charged once, at their own price.
        return (
            (usage.prompt_tokens - usage.cached_tokens) * self.input_picousd
            + usage.cached_tokens * cached_price
            + usage.completion_tokens * self.output_picousd
        )


def charged_picousd(price: TokenPrice, usage: Usage) -> int:
    """Returns what a request is counted as: its exact cost, at most MOST_PICOUSD."""
    cost = price.cost_picousd(usage)
    return cost if cost <= MOST_PICOUSD else MOST_PICOUSD


def dearest(prices: Iterable[TokenPrice | None]) -> TokenPrice | None:
    """Returns the highest of the known input and output prices, without a discount; None if none is known."""
    known = [price for price in prices if price is not None]
    if not known:
        return None
    return TokenPrice(max(price.input_picousd for price in known), max(price.output_picousd for price in known))


@dataclass(frozen=True, slots=True)
class SecondPrice:
    """The price of one worker's time, which RunPod bills from its start to its full stop."""

    picousd_per_microsecond: int

    @classmethod
    def per_second(cls, usd: Decimal | str | int) -> SecondPrice:
        """Makes a price from dollars per second. Raises ValueError as money.picousd_per_microsecond does."""
        return cls(picousd_per_microsecond(usd))

    def cost_picousd(self, microseconds: int) -> int:
        """Returns the exact pico-dollars of this time of one worker."""
        return microseconds * self.picousd_per_microsecond
