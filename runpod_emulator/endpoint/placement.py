"""The GPUs on which a worker runs, and their price."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One worker's GPUs."""

    #: RunPod's id of the GPU type; None where it is not known.
    gpu_type_id: str | None = None
    gpu_count: int = 1
    data_center_id: str | None = None
    #: The price of the worker's second, all its GPUs together.
    usd_per_second: Decimal


#: A worker that waits for GPUs has none, and costs nothing.
NOWHERE = Placement(gpu_count=0, usd_per_second=Decimal(0))


class Placer(Protocol):
    """Finds GPUs for the workers of one endpoint."""

    def place(self, *, must: bool) -> Placement | None:
        """Takes GPUs for one worker; None: there are none now. With `must` there always are."""

    def vacate(self, placement: Placement) -> None:
        """Gives them back."""


@dataclass(frozen=True)
class SamePlace:
    """Places all workers alike, any number of them."""

    placement: Placement

    def place(self, *, must: bool) -> Placement:
        """Implements Placer."""
        return self.placement

    def vacate(self, placement: Placement) -> None:
        """Implements Placer."""
