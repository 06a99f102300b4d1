"""A provider's spend of one UTC day by what it was spent on, each amount with what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.money import split


class SpendPart(StrEnum):
    """The uses that dollars were spent on."""

    #: Requests of which no worker's seconds are known: by their tokens, or by what was expected of them.
    REQUESTS = "requests"
    EXECUTION = "execution"
    COLD_START = "cold_start"
    IDLE = "idle"
    #: Workers' seconds that no request caused.
    NO_REQUEST = "no_request"
    #: What was billed for workers beyond what was seen of them.
    UNEXPLAINED = "unexplained"
    DISK = "disk"
    FEE = "fee"
    VOLUME = "volume"


#: A worker's seconds, by what they went into.
WORKER_PARTS = (SpendPart.EXECUTION, SpendPart.COLD_START, SpendPart.IDLE, SpendPart.NO_REQUEST)


@dataclass(frozen=True, slots=True)
class SpendLine:
    """An amount in pico-dollars."""

    part: SpendPart
    basis: CostBasis
    picousd: int


@dataclass(frozen=True, slots=True)
class RowSums:
    """Sums over rows of one basis, of requests that began on the day; pico-dollars."""

    #: None: rows from before the column.
    basis: CostBasis | None
    cost_picousd: int
    #: What is booked to them; all 0 where nothing is.
    execution_picousd: int
    cold_start_picousd: int
    idle_picousd: int

    def lines(self) -> list[SpendLine]:
        """Returns the cost by part. A billed cost is divided as its booked parts are."""
        basis = self.basis or CostBasis.EXPECTED
        weights = (self.execution_picousd, self.cold_start_picousd, self.idle_picousd)
        if not any(weights):
            return [SpendLine(SpendPart.REQUESTS, basis, self.cost_picousd)]
        parts = (SpendPart.EXECUTION, SpendPart.COLD_START, SpendPart.IDLE)
        return [
            SpendLine(part, basis, amount)
            for part, amount in zip(parts, split(self.cost_picousd, weights), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class ProviderSpend:
    """One provider's day."""

    provider: str
    #: Days since 1970.
    day: int
    lines: tuple[SpendLine, ...] = ()
    #: What the requests whose cost is known would have cost at the baseline; None where no request has one.
    baseline_picousd: int | None = None
    #: Requests of which a provider's work has an unknown cost, which is in no line.
    unpriced_requests: int = 0


@dataclass(slots=True)
class Spend:
    """Sums over days and providers."""

    #: Pico-dollars by part and basis.
    lines: dict[tuple[SpendPart, CostBasis], int] = field(default_factory=dict)
    baseline_picousd: int | None = None
    unpriced_requests: int = 0

    @classmethod
    def of(cls, days: Iterable[ProviderSpend]) -> Spend:
        """Returns the sums."""
        spend = cls()
        for day in days:
            for line in day.lines:
                key = line.part, line.basis
                spend.lines[key] = spend.lines.get(key, 0) + line.picousd
            if day.baseline_picousd is not None:
                spend.baseline_picousd = (spend.baseline_picousd or 0) + day.baseline_picousd
            spend.unpriced_requests += day.unpriced_requests
        return spend

    @property
    def total_picousd(self) -> int:
        """The sum of all lines."""
        return sum(self.lines.values())

    @property
    def saved_picousd(self) -> int | None:
        """The baseline less everything that was spent; None without a baseline."""
        return None if self.baseline_picousd is None else self.baseline_picousd - self.total_picousd

    def by_part(self) -> Mapping[SpendPart, int]:
        """Returns pico-dollars by part, in the order of SpendPart."""
        return {part: sum(self.lines[key] for key in self.lines if key[0] is part) for part in self._parts()}

    def by_basis(self) -> Mapping[CostBasis, int]:
        """Returns pico-dollars by what they rest on; lines of nothing are left out."""
        sums = {basis: sum(self.lines[key] for key in self.lines if key[1] is basis) for basis in CostBasis}
        return {basis: amount for basis, amount in sums.items() if amount}

    def worker_shares(self) -> Mapping[SpendPart, float]:
        """Returns the share (0-1) of each use in what workers' seconds cost; empty where none are known."""
        known = {part: amount for part, amount in self.by_part().items() if part in WORKER_PARTS}
        total = sum(known.values())
        return {part: amount / total for part, amount in known.items()} if total > 0 else {}

    def _parts(self) -> list[SpendPart]:
        return [part for part in SpendPart if any(key[0] is part for key in self.lines)]
