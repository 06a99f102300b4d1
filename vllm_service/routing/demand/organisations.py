"""Bounds how many workers one organisation's requests count for: by its share, and by the ends of its earlier ones.

Demand is logged when a request is planned, before anything is known of its end. What was cut, refused or never answered
is taken back at its end; until then an organisation whose requests come to nothing counts for less and less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from vllm_service.routing.demand.counterfactual import Demand

#: The span over which an organisation's past is averaged.
_MEMORY_SECONDS = 600.0
#: Of how many organisations something is remembered; the one whose last request is the oldest goes first.
_MOST_ORGANISATIONS = 10_000


class _Past(msgspec.Struct, gc=False):
    """The hosted dollars of one organisation's requests that have ended lately."""

    answered_usd: float = 0.0
    withdrawn_usd: float = 0.0
    at_seconds: float = 0.0


class Organisations:
    """The past of each organisation at one endpoint.

    share: of the workers that may be woken, how many one organisation may want before its answers have paid for more.
    """

    def __init__(self, workers: int, share: float) -> None:
        self._least = max(1, int(workers * share))
        self._workers = workers
        self._pasts: dict[str, _Past] = {}

    def take(self, ended: Iterable[Demand], now: float) -> None:
        """Takes the requests that have ended."""
        for demand in ended:
            past = self._pasts.pop(demand.organisation, None) or _Past()
            keep = math.exp(-max(0.0, now - past.at_seconds) / _MEMORY_SECONDS)
            answered_usd, withdrawn_usd = (0.0, demand.hosted_usd) if demand.is_withdrawn else (demand.hosted_usd, 0.0)
            self._pasts[demand.organisation] = _Past(
                past.answered_usd * keep + answered_usd, past.withdrawn_usd * keep + withdrawn_usd, now
            )
            if len(self._pasts) > _MOST_ORGANISATIONS:
                del self._pasts[next(iter(self._pasts))]

    def weight(self, organisation: str, start_usd: float) -> float:
        """Returns what a dollar of its demand counts: the share that was answered, of those that have ended.

        start_usd: what the start of a worker costs. Less than that is too little to judge by.
        """
        past = self._pasts.get(organisation)
        if past is None or not past.withdrawn_usd:
            return 1.0
        return (past.answered_usd + start_usd) / (past.answered_usd + past.withdrawn_usd + start_usd)

    def most_workers(self, organisation: str, start_usd: float) -> int:
        """Returns how many workers it may want: its share, or as many as its answers have paid the start of.

        Without keys there is one caller, who may want all of them.
        """
        if not organisation:
            return self._workers
        past = self._pasts.get(organisation)
        paid = 0 if past is None or start_usd <= 0 else int(min(past.answered_usd / start_usd, self._workers))
        return max(self._least, paid)
