"""The GPUs on which a worker runs, and their price."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One worker's GPUs."""

    #: RunPod's id of the GPU type; None where it is not known.
    gpu_type_id: str | None = None
    gpu_count: int = 1
    data_center_id: str | None = None
    #: The price of the worker's second, all its GPUs together.
    usd_per_second: Decimal
