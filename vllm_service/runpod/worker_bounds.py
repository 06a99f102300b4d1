"""How many workers RunPod lets an endpoint have, and whether RunPod has lowered that by itself.

An endpoint without a request for 3 days gets at most 2 workers, and after 7 days none, until somebody raises the number
(RunPod's documentation, 2026-08). Nothing in the endpoint's document says so: the number itself has to be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

#: The most workers of an endpoint that has had no request for 3 days.
AFTER_THREE_DAYS = 2
_ADVICE = "`python -m vllm_service deploy apply` puts it back, as does Max workers in RunPod's console"


@dataclass(frozen=True, slots=True)
class WorkerBounds:
    """The numbers between which RunPod keeps an endpoint's workers. None: missing, or no count."""

    #: workersMin: so many run with or without jobs.
    least: int | None = None
    #: workersMax.
    most: int | None = None


def parse_bounds(document: Mapping[str, object]) -> WorkerBounds:
    """Returns the bounds in an endpoint's document, of REST v2 (`workers: {min, max}`) or v1 (`workersMin`)."""
    workers = document.get("workers")
    if isinstance(workers, Mapping):
        return WorkerBounds(_count(workers.get("min")), _count(workers.get("max")))
    return WorkerBounds(_count(document.get("workersMin")), _count(document.get("workersMax")))


def scaled_down_reason(most: int | None, wanted: int | None) -> str | None:
    """Returns why an endpoint counts as scaled down by RunPod, and the remedy; None where it does not.

    wanted: how many workers it should be allowed, as far as is known.
    """
    if most == 0:
        return f"RunPod lets it have no worker, as after 7 days without a request: {_ADVICE}"
    if most == AFTER_THREE_DAYS and wanted is not None and wanted > most:
        return f"RunPod lets it have {most} workers instead of {wanted}, as after 3 days without a request: {_ADVICE}"
    return None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value < 2**31:
        return None
    return int(value) if value == int(value) else None
