"""The names of the router's strategies, wherever one is written: a file, a variable, a header, a key, an argument."""

from __future__ import annotations

from enum import StrEnum


class RoutingStrategy(StrEnum):
    """The names in routing.strategies. BALANCED sends 80 % to own endpoints; COST decides as the gateway does."""

    COST = "COST"
    LATENCY = "LATENCY"
    QUALITY = "QUALITY"
    BALANCED = "BALANCED"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_LOADED = "LEAST_LOADED"
    WEIGHTED = "WEIGHTED"
    PINNED = "PINNED"

    @classmethod
    def _missing_(cls, value: object) -> RoutingStrategy | None:
        """Returns the strategy of a name in small letters."""
        return cls.__members__.get(str(value).upper())
