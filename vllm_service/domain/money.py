"""Money as integers of pico-dollars (1e-12 USD): a token and a GPU's microsecond cost whole numbers of them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import overload

PICOUSD_PER_USD = 10**12
_PER_MILLION = PICOUSD_PER_USD // 10**6
#: Decimal's default context rounds silently to 28 digits; this one raises instead.
_EXACT = Context(prec=50, Emax=50, traps=[InvalidOperation, Overflow, Inexact])


def picousd_per_token(usd_per_million_tokens: Decimal | str | int) -> int:
    """Returns pico-dollars per token.

    Raises ValueError for a price that is negative, no number, or finer than $0.000001 per million tokens.
    """
    return _price(usd_per_million_tokens, "USD per million tokens")


def picousd_per_microsecond(usd_per_second: Decimal | str | int) -> int:
    """Returns pico-dollars per microsecond.

    Raises ValueError for a price that is negative, no number, or finer than $0.000001 per second.
    """
    return _price(usd_per_second, "USD per second")


def picousd(usd: Decimal | str | int) -> int:
    """Returns whole pico-dollars. Raises ValueError for no number, or an amount finer than one pico-dollar."""
    return _whole(usd, PICOUSD_PER_USD, "USD", "1e-12 USD")


def exact_number(text: str) -> Decimal:
    """Returns a JSON number without rounding it; for json's `parse_float`. Raises ValueError, as JSON's readers expect.

    Decimal alone raises no ValueError for an exponent of twenty digits.
    """
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text[:40]} is no number that can be held") from None


@overload
def to_usd(amount_picousd: int) -> float: ...


@overload
def to_usd(amount_picousd: int | None) -> float | None: ...


def to_usd(amount_picousd: int | None) -> float | None:
    """Returns dollars for JSON and people; a float, so never to be added up. None, unknown, stays None."""
    return None if amount_picousd is None else float(Decimal(amount_picousd) / PICOUSD_PER_USD)


def _price(price: Decimal | str | int, unit: str) -> int:
    amount = _whole(price, _PER_MILLION, unit, "0.000001")
    if amount < 0:
        raise ValueError(f"{price} is not a price in {unit}: it is below 0")
    return amount


def _whole(number: Decimal | str | int, factor: int, unit: str, finest: str) -> int:
    """Returns number x factor. Raises ValueError unless it is a whole number."""
    try:
        product = _EXACT.multiply(Decimal(number), factor)
    except Overflow:
        raise ValueError(f"{number} {unit} is more than can be counted exactly") from None
    except Inexact:
        raise ValueError(f"{number} {unit} is finer than {finest}: round it") from None
    except InvalidOperation:
        raise ValueError(f"{str(number)!r} is not a number of {unit}") from None
    if not product.is_finite():
        raise ValueError(f"{number} is not a number of {unit}")
    if product != product.to_integral_value():
        raise ValueError(f"{number} {unit} is finer than {finest}: round it")
    return int(product)


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """Splits an amount by weights (none below 0) into whole parts that add up to it: the largest remainder method.

    Each part is its exact share rounded down; what is left over goes unit by unit to the largest remainders, of equal
    ones to the earlier. Raises ValueError for an amount other than 0 when all weights are 0.
    """
    total = sum(weights)
    if total <= 0:
        if amount:
            raise ValueError(f"{amount} cannot be split: no weight is above 0")
        return [0] * len(weights)
    parts = [amount * weight // total for weight in weights]
    left = amount - sum(parts)
    # amount x weight mod total orders like the fractions themselves, in whole numbers. There are fewer units left than
    # parts, so each part is rounded up at most once.
    by_remainder = sorted(range(len(weights)), key=lambda index: -(amount * weights[index] % total))
    for index in by_remainder[:left]:
        parts[index] += 1
    return parts
