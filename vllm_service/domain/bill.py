"""Lines of a bill: an amount in pico-dollars, what it is made of, and the time that it covers."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from vllm_service.domain.money import split

DAY_US = 86_400 * 1_000_000
_EPOCH = date(1970, 1, 1)


class BillPart(StrEnum):
    """The parts into which RunPod's REST API v2 divides the amounts of an endpoint, and a network volume's whole."""

    GPU = "gpu"
    CPU = "cpu"
    DISK = "disk"
    FEE = "fee"
    VOLUME = "volume"


#: What is billed for workers' seconds, and so can be caused by a request. The other parts are lines of their own.
COMPUTE = (BillPart.GPU, BillPart.CPU)

#: Pico-dollars by part: None where the bill should have the part and lacks it. A part that does not apply has no entry.
Parts = Mapping[BillPart, int | None]


@dataclass(frozen=True, slots=True)
class BilledAmount:
    """One line of a bill. A field is None where the bill lacks it."""

    picousd: int
    endpoint: str | None = None
    #: Microseconds since 1970, as ended_us.
    started_us: int | None = None
    ended_us: int | None = None
    #: What the amount is made of; empty where the bill does not divide it.
    parts: Parts = field(default_factory=dict)
    #: The network volume that is billed; None for an endpoint's line.
    volume: str | None = None

    def per_day(self) -> list[tuple[date | None, int]]:
        """Returns the amount, cut at midnight UTC by time; exact."""
        if self.started_us is None:
            return [(None, self.picousd)]
        end_us = max(self.ended_us or 0, self.started_us)
        cuts = [self.started_us, *range((self.started_us // DAY_US + 1) * DAY_US, end_us, DAY_US), end_us]
        lengths = [later - earlier for earlier, later in itertools.pairwise(cuts)]
        # An amount without any length belongs to the day on which it began.
        shares = split(self.picousd, lengths if any(lengths) else [1, *lengths[1:]])
        return [(utc_day(start), share) for start, share in zip(cuts, shares, strict=False)]


@dataclass(slots=True)
class BilledParts:
    """Sums of parts. A part of which one line is unknown is unknown, never the sum of the others."""

    #: The lines' whole amounts.
    total_picousd: int | None = None
    #: Amounts of lines that are not divided.
    undivided_picousd: int | None = None
    _known: defaultdict[BillPart, int] = field(default_factory=lambda: defaultdict(int))
    _unknown: set[BillPart] = field(default_factory=set)

    def add(self, picousd: int, parts: Parts) -> None:
        """Adds one line's amount, with its parts."""
        self.total_picousd = plus(self.total_picousd, picousd)
        if not parts:
            self.undivided_picousd = plus(self.undivided_picousd, picousd)
        for part, amount in parts.items():
            if amount is None:
                self._unknown.add(part)
            else:
                self._known[part] += amount

    def merge(self, other: BilledParts) -> None:
        """Adds another day's sums."""
        self.total_picousd = plus(self.total_picousd, other.total_picousd)
        self.undivided_picousd = plus(self.undivided_picousd, other.undivided_picousd)
        for part, amount in other._known.items():
            self._known[part] += amount
        self._unknown |= other._unknown

    def of(self, part: BillPart) -> int | None:
        """Returns one part's pico-dollars; None where it is unknown, or no line has it."""
        return None if part in self._unknown else self._known.get(part)

    @property
    def is_divided(self) -> bool:
        """True if a line has parts."""
        return bool(self._known or self._unknown)

    @property
    def compute_picousd(self) -> int | None:
        """The amount for workers' seconds: GPU and CPU, and lines that are not divided, as their whole."""
        if self._unknown & set(COMPUTE):
            return None
        amounts = (self.undivided_picousd, *map(self.of, COMPUTE))
        known = [amount for amount in amounts if amount is not None]
        return sum(known) if known else None

    @property
    def beyond_parts_picousd(self) -> int | None:
        """The amount by which the lines' totals are more, or less, than their parts; None where a part is unknown."""
        if self._unknown or self.total_picousd is None:
            return None
        return self.total_picousd - (self.undivided_picousd or 0) - sum(self._known.values())


def parts_per_day(lines: Iterable[BilledAmount]) -> dict[date | None, BilledParts]:
    """Returns the sums of each UTC day. A line over midnight is cut by time; one with parts lies within a day."""
    days: defaultdict[date | None, BilledParts] = defaultdict(BilledParts)
    for line in lines:
        for day, picousd in line.per_day():
            days[day].add(picousd, line.parts)
    return days


def parts_by_date(lines: Iterable[BilledAmount]) -> dict[date, BilledParts]:
    """Returns the sums of each UTC day, without lines that have no time."""
    return {day: parts for day, parts in parts_per_day(lines).items() if day is not None}


def plus(known: int | None, more: int | None) -> int | None:
    """Returns the sum of what is known; None where neither is."""
    return known if more is None else (known or 0) + more


def utc_day(microseconds: int) -> date:
    """Returns the UTC day of microseconds since 1970."""
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).date()


def day_number(day: date) -> int:
    """Returns a day as days since 1970, as the ledger's tables have it."""
    return (day - _EPOCH).days


def numbered_day(number: int) -> date:
    """Returns the day of day_number."""
    return _EPOCH + timedelta(days=number)
