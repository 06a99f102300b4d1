"""Divides a day's bill among what was booked of that day's seconds. Pure, and exact to the pico-dollar.

A bill by day has no times of workers. The ledger has: it booked the seconds of the workers that it saw, at the prices
that it knew. So the bill scales what was booked, which takes up wrong prices, discounts and rounded seconds. A bill
that is higher by more than a tolerance is for something that was not seen: workers while no gateway looked, or that
none could see. That surplus has no request, and is kept apart whole, because whom it is spread over would be a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.domain.money import split

#: Surplus up to this share of what was seen is spread: rounding up to a second is 3 % of a worker that runs for half a
#: minute, and a look every few seconds misses the beginning and the end of a worker by about as much. An hour of a day
#: is 4 %, so a worker that no gateway saw for so long is not spread.
TOLERANCE_PERCENT = 3


@dataclass(frozen=True, slots=True)
class SeenDay:
    """The bookings of the seconds of one UTC day, in pico-dollars. None is below 0."""

    #: What the requests pay that began on this day.
    requests_picousd: int = 0
    #: What requests pay that began on an earlier day, such as idle seconds after midnight.
    earlier_picousd: int = 0
    #: Seconds that no request caused.
    nobody_picousd: int = 0

    @property
    def total_picousd(self) -> int:
        """The sum of the three."""
        return self.requests_picousd + self.earlier_picousd + self.nobody_picousd


@dataclass(frozen=True, slots=True)
class BilledShares:
    """A bill's compute amount by what it is for. The four are exactly the amount."""

    requests_picousd: int
    earlier_picousd: int
    nobody_picousd: int
    #: What the bill is more than what was seen; below 0 where the bill gives money back.
    unexplained_picousd: int

    @property
    def explained_picousd(self) -> int:
        """The amount without what is unexplained."""
        return self.requests_picousd + self.earlier_picousd + self.nobody_picousd


def shares(compute_picousd: int, seen: SeenDay, tolerance_percent: int = TOLERANCE_PERCENT) -> BilledShares:
    """Returns what a day's compute amount is for.

    An amount up to the tolerance above what was seen is divided whole, in proportion. Of a higher one the surplus over
    what was seen is unexplained; so is an amount below 0, and the whole of a day on which nothing was seen.
    """
    surplus = compute_picousd - seen.total_picousd
    is_within = 100 * surplus <= tolerance_percent * seen.total_picousd
    explained = max(compute_picousd, 0) if is_within else seen.total_picousd
    weights = (seen.requests_picousd, seen.earlier_picousd, seen.nobody_picousd)
    if not any(weights):
        explained = 0
    requests, earlier, nobody = split(explained, weights)
    return BilledShares(requests, earlier, nobody, compute_picousd - explained)


class RunningSplit:
    """Splits an amount by weights that come one after another, with nothing kept of them but their sum.

    Each part is within one unit of its exact share. Together they are the amount when the weights add up to
    total_weight, and that is above 0; else each part is 0. No weight is below 0.
    """

    def __init__(self, amount: int, total_weight: int) -> None:
        self._amount = amount
        self._total_weight = total_weight
        self._weight = 0
        self._given = 0

    def part(self, weight: int) -> int:
        """Returns the next part."""
        self._weight += weight
        given = self._amount * self._weight // self._total_weight if self._total_weight else 0
        part = given - self._given
        self._given = given
        return part
