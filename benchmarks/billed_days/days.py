"""The five days that are played: their traffic, workers, and what the gateway cannot see."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

#: 2026-11-02, UTC, in seconds since 1970.
DAY_BEGINS_AT = 1_793_577_600.0
SECONDS_PER_DAY = 86_400.0
#: The application that uses the endpoint without the gateway.
OTHER_APPLICATION = "another application"
CALLERS = ("anna", "bela", "chen", "dora", "emil")
#: How much of the traffic is each caller's.
_SHARES = (40, 25, 20, 10, 5)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: when it comes, in seconds since 1970, how long it runs, and whose it is."""

    at: float
    execution_seconds: float
    caller: str


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU type that workers get, with its price."""

    type_id: str
    usd_per_second: Decimal


L4 = Gpu("NVIDIA L4", Decimal("0.00019"))
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", Decimal("0.00031"))


@dataclass(frozen=True, slots=True)
class Day:
    """A day of one endpoint."""

    name: str
    asks_per_hour: float
    execution_seconds: tuple[float, float]
    idle_timeout_seconds: float = 5.0
    max_workers: int = 3
    #: With queue_delay every four seconds that a job waits start one more worker, also while one loads.
    scaling: Literal["queue_delay", "request_count"] = "request_count"
    cold_start_seconds: tuple[float, float] = (20.0, 60.0)
    #: Workers get them in turn.
    gpus: tuple[Gpu, ...] = (L4,)
    #: When the gateway runs not, in hours since midnight.
    down_hours: tuple[float, float] | None = None
    #: Requests an hour that come past the gateway, between these hours since midnight.
    other_asks_per_hour: float = 0.0
    other_hours: tuple[float, float] = (0.0, 24.0)

    def asks(self, draw: random.Random) -> list[Ask]:
        """Returns the day's requests in the order of their times. While the gateway is down its callers get nothing."""
        ours = [Ask(at, self._execution(draw), draw.choices(CALLERS, _SHARES)[0]) for at in self._times(draw)]
        through = [ask for ask in ours if not self.is_down(ask.at)]
        others = [
            Ask(at, self._execution(draw), OTHER_APPLICATION)
            for at in _arrivals(draw, self.other_asks_per_hour)
            if _is_within(at, self.other_hours)
        ]
        return sorted([*through, *others], key=lambda ask: ask.at)

    def is_down(self, at: float) -> bool:
        """Returns whether the gateway is down at this time."""
        return self.down_hours is not None and _is_within(at, self.down_hours)

    def _times(self, draw: random.Random) -> Iterator[float]:
        return _arrivals(draw, self.asks_per_hour)

    def _execution(self, draw: random.Random) -> float:
        return draw.uniform(*self.execution_seconds)


def _is_within(at: float, hours: tuple[float, float]) -> bool:
    """Returns whether a time is between two hours since midnight."""
    return hours[0] <= (at - DAY_BEGINS_AT) / 3600 < hours[1]


def _arrivals(draw: random.Random, per_hour: float) -> Iterator[float]:
    """Yields times of a Poisson process, until ten minutes before midnight, so that workers stop on the same day."""
    at = DAY_BEGINS_AT
    while per_hour:
        at += draw.expovariate(per_hour / 3600)
        if at >= DAY_BEGINS_AT + SECONDS_PER_DAY - 600:
            return
        yield at


DAYS = (
    Day("light traffic", asks_per_hour=3, execution_seconds=(2, 12), scaling="queue_delay"),
    Day("busy", asks_per_hour=250, execution_seconds=(2, 20), idle_timeout_seconds=30),
    Day("two GPU types", asks_per_hour=40, execution_seconds=(4, 30), gpus=(L4, RTX_4090)),
    Day("gateway down for an hour", asks_per_hour=60, execution_seconds=(4, 30), down_hours=(11.0, 12.0)),
    Day(
        "a worker that another application used",
        asks_per_hour=20,
        execution_seconds=(4, 30),
        other_asks_per_hour=60,
        other_hours=(2.0, 4.0),
    ),
)
