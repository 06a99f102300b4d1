"""A figure that is not known, with the reason: it is shown, and never replaced by a guess."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands where a figure would stand."""

    #: One sentence without a full stop: why it is not known, and what would make it known.
    reason: str
