"""The names of the router's strategies, for `LLMRouter(strategy=...)`."""

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
