"""Money as integers of pico-dollars (1e-12 USD): the unit in which a token and a GPU's microsecond cost whole numbers.

$0.000001 per million tokens is 1 pico-dollar per token; $0.000001 per second is 1 pico-dollar per microsecond. Sums are
therefore exact, and 64 bits hold nine million dollars.
"""

from __future__ import annotations

from decimal import Decimal
from typing import overload

PICOUSD_PER_USD = 10**12
_PER_MILLION = Decimal(PICOUSD_PER_USD // 10**6)


def picousd_per_token(usd_per_million_tokens: Decimal | str | int) -> int:
    """Pico-dollars per token. ValueError: negative, not a number, or finer than $0.000001 per million tokens."""
    return _whole(usd_per_million_tokens, "USD per million tokens")


def picousd_per_microsecond(usd_per_second: Decimal | str | int) -> int:
    """Pico-dollars per microsecond. ValueError: negative, not a number, or finer than $0.000001 per second."""
    return _whole(usd_per_second, "USD per second")


def picousd(usd: Decimal | str | int) -> int:
    """Whole pico-dollars. ValueError: finer than one pico-dollar."""
    amount = Decimal(usd) * PICOUSD_PER_USD
    if amount != amount.to_integral_value():
        raise ValueError(f"{usd} USD is finer than 1e-12 USD")
    return int(amount)


@overload
def to_usd(amount_picousd: int) -> float: ...


@overload
def to_usd(amount_picousd: int | None) -> float | None: ...


def to_usd(amount_picousd: int | None) -> float | None:
    """Dollars for JSON and people; never added up. None, unknown, stays None."""
    return None if amount_picousd is None else float(Decimal(amount_picousd) / PICOUSD_PER_USD)


def _whole(price: Decimal | str | int, unit: str) -> int:
    amount = Decimal(price) * _PER_MILLION
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{price} is not a price in {unit}")
    if amount != amount.to_integral_value():
        raise ValueError(f"{price} {unit} is finer than 0.000001")
    return int(amount)
