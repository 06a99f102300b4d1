"""What a cost rests on, from an expectation to the provider's bill, and the parts that it has."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CostBasis(StrEnum):
    """The kinds of knowledge that the cost of a request rests on."""

    __hash__ = str.__hash__  # Enum's own is Python, and each request has one

    #: The router's expectation, or tokens that were estimated.
    EXPECTED = "expected"
    #: Counted tokens by the configured price, or the worker seconds that were seen by the price of a second.
    BOOKED = "booked"
    #: What the provider's bill says.
    BILLED = "billed"


# Python looks a member up at its Enum's class slowly, and each request needs these.
EXPECTED = CostBasis.EXPECTED
BOOKED = CostBasis.BOOKED


@dataclass(frozen=True, slots=True)
class CostParts:
    """The pico-dollars of worker time that one request pays, by what the time was spent on."""

    execution_picousd: int = 0
    cold_start_picousd: int = 0
    idle_picousd: int = 0

    @property
    def total_picousd(self) -> int:
        """The sum of the three."""
        return self.execution_picousd + self.cold_start_picousd + self.idle_picousd
