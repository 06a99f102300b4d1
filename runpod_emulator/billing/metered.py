"""The cost of time, and its exact division: what is billed until a moment never changes afterwards."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

MICROSECONDS = 1_000_000
#: The last digit that a bill prints: a pico-dollar.
DIGITS = 12
#: Enough digits for every sum: with fewer, Decimal would round.
EXACT = Context(prec=60)


@dataclass(frozen=True)
class Span:
    """Time at one price. Times are microseconds since 1970, the end is exclusive."""

    begin_us: int
    end_us: int
    usd_per_second: Fraction


@dataclass(frozen=True)
class MeteredCost:
    """The cost of spans of time, in USD. A part of a pico-dollar counts from when it is a whole one."""

    #: In the order of their times, none overlapping another.
    spans: tuple[Span, ...]
    #: The sum at the end of the last span, where it is not that of the spans: time is rounded up to a second.
    total_usd: Decimal | None = None

    def until(self, at_us: int) -> Decimal:
        """Returns the cost of the time before a moment."""
        if self.total_usd is not None and self.spans and at_us >= self.spans[-1].end_us:
            return self.total_usd
        usd = sum((_usd(span, at_us) for span in self.spans), Fraction(0))
        return whole_picodollars(usd)

    def between(self, begin_us: int, end_us: int) -> Decimal:
        """Returns the cost of a half-open range; the costs of ranges that touch add up to that of the whole."""
        return EXACT.subtract(self.until(end_us), self.until(begin_us))


def by_bucket(costs: Iterable[MeteredCost], borders_us: Sequence[int]) -> list[Decimal]:
    """Returns what all costs have together in each range between two borders that follow one another, exactly."""
    amounts = [Decimal(0)] * (len(borders_us) - 1)
    for cost in (cost for cost in costs if cost.spans):
        first = max(0, bisect_right(borders_us, cost.spans[0].begin_us) - 1)
        last = min(len(amounts), bisect_left(borders_us, cost.spans[-1].end_us))
        for number in range(first, last):
            amount = cost.between(borders_us[number], borders_us[number + 1])
            amounts[number] = EXACT.add(amounts[number], amount)
    return amounts


def worker_cost(spans: Sequence[tuple[int, int]], usd_per_second: Fraction) -> MeteredCost:
    """Returns the cost of a worker's billed times, rounded up to a whole second at their end."""
    measured = sum(end - begin for begin, end in spans)
    billed_seconds = math.ceil(Fraction(measured, MICROSECONDS))
    priced = tuple(Span(begin, end, usd_per_second) for begin, end in spans)
    return MeteredCost(priced, exact_usd(billed_seconds * usd_per_second))


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Returns the exact sum."""
    result = Decimal(0)
    for amount in amounts:
        result = EXACT.add(result, amount)
    return result


def exact_usd(usd: Fraction) -> Decimal:
    """Returns an amount with all its digits where they end, else down to the pico-dollar."""
    denominator = usd.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    if denominator != 1:
        return whole_picodollars(usd)
    return EXACT.divide(Decimal(usd.numerator), Decimal(usd.denominator))


def whole_picodollars(usd: Fraction) -> Decimal:
    """Returns an amount rounded down to the pico-dollar."""
    return Decimal(math.floor(usd * 10**DIGITS)).scaleb(-DIGITS, EXACT)


def _usd(span: Span, at_us: int) -> Fraction:
    return Fraction(max(0, min(span.end_us, at_us) - span.begin_us), MICROSECONDS) * span.usd_per_second
