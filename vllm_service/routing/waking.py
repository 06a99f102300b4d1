"""How many workers an endpoint should have: several regret rules, and the one that would have cost least so far.

A rule is two thresholds. Per worker k (the first, the second, ...), with `h` the hosted dollars that this worker would
have saved and `c dt` what it would have cost since the last look:

    up   = max(0, up + h - c dt)      while it is off: on at  up   >= wake  x B
    down = max(0, down + c dt - h)    while it is on:  off at down >= leave x B     B = c (cold start + idle time-out)

The h of worker k is measured on paper: what k always-warm workers would have taken of the real arrivals, less what k - 1
would have (shadow.py). Each rule is played against the real traffic on paper, for each worker k; the
endpoint follows, per worker, the rule whose paper bill is the smallest. Rules are not played once: which thresholds pay
depends on whether bursts end before a cold start does, and the traffic says so within a few episodes.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.shadow import Offered, ShadowWorkers, Speeds

Floats = NDArray[np.float64]

WAKE = (0.1, 0.3, 0.8, 2.0, 5.0, math.inf)
LEAVE = (0.5, 1.0, 2.0, 5.0, 20.0)
RULES = np.array([(wake, leave) for wake in WAKE for leave in LEAVE])
FIRST_RULE = WAKE.index(0.8) * len(LEAVE) + LEAVE.index(1.0)
_MOST_WAITING = 100_000
_LOAD_SECONDS = 20.0
_OFF, _STARTING, _ON = 0, 1, 2


class PaperWorkers:
    """Every rule, for every worker, on paper. Arrays are [rule, worker]; money in dollars."""

    def __init__(self, workers: int, usd_per_second: float, memory_seconds: float) -> None:
        shape = (len(RULES), workers)
        self._usd_per_second = usd_per_second
        self._memory_seconds = memory_seconds
        self._wake, self._leave = RULES[:, :1], RULES[:, 1:]
        self.state: NDArray[np.int8] = np.zeros(shape, np.int8)
        self._regret: Floats = np.zeros(shape)
        self._cold_left: Floats = np.zeros(shape)
        self.bill: Floats = np.zeros(shape)

    def advance(self, seconds: float, saved: Floats, cold_seconds: float, idle_seconds: float) -> None:
        """`saved`: hosted dollars that each worker would have saved in these seconds, had it been warm."""
        cost = self._usd_per_second * seconds
        whole = self._usd_per_second * (cold_seconds + idle_seconds)
        off, starting, on = self.state == _OFF, self.state == _STARTING, self.state == _ON
        # A worker that is on and not needed leaves within a long silence, not at its end.
        left = (self._leave * whole - self._regret) / self._usd_per_second
        paid = np.where(on, np.minimum(cost, np.maximum(left, 0.0) * self._usd_per_second), 0.0)
        paid = np.where(starting, np.minimum(seconds, self._cold_left) * self._usd_per_second, paid)
        self.bill *= math.exp(-seconds / self._memory_seconds)
        self.bill += np.where(on, paid, paid + saved)
        change = np.where(off, saved - cost, np.where(on, cost - saved, 0.0))
        self._regret = np.maximum(0.0, self._regret + change)
        self._cold_left -= seconds
        woken = off & (self._regret >= self._wake * whole)
        gone = on & (self._regret >= self._leave * whole)
        ready = starting & (self._cold_left <= 0.0)
        self.state[woken], self.state[gone], self.state[ready] = _STARTING, _OFF, _ON
        self._cold_left[woken] = cold_seconds
        self._regret[woken | gone | ready] = 0.0
        self.bill += np.where(gone, self._usd_per_second * idle_seconds, 0.0)


class WakeController:
    """For one endpoint. `demand` is called for each request, `decide` about once a second."""

    def __init__(self, workers: int, usd_per_second: float) -> None:
        self._usd_per_second = usd_per_second
        self._paper = PaperWorkers(workers, usd_per_second, memory_seconds=4 * 3600.0)
        self._shadows = [ShadowWorkers(count) for count in range(1, workers + 1)]
        self._rule = np.full(workers, FIRST_RULE)
        self._numbers = np.arange(workers)
        self._offered: deque[Offered] = deque(maxlen=_MOST_WAITING)
        self._looked_at: float | None = None
        self.load = 0.0

    def demand(self, request: Offered) -> None:
        """A request came that could be served here."""
        self._offered.append(request)

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, speeds: Speeds) -> int:
        """How many workers there should be."""
        seconds = 1.0 if self._looked_at is None else now - self._looked_at
        if seconds <= 0.0:
            return self.wanted()
        self._looked_at = now
        saved = self._offer_to_shadows(seconds, speeds)
        self._paper.advance(seconds, saved, cold_seconds, idle_seconds)
        self._choose(cold_seconds + idle_seconds)
        return self.wanted()

    def wanted(self) -> int:
        """Workers whose rule has them on, counted from the first; a gap ends the count."""
        on = self._paper.state[self._rule, self._numbers] != _OFF
        return int(len(on) if on.all() else np.argmin(on))

    def _offer_to_shadows(self, seconds: float, speeds: Speeds) -> Floats:
        """What the first, the second, ... worker would have saved since the last look."""
        offered, reading = self._offered, 0.0
        shadows = self._shadows[: int(3.0 * self.load) + 3]
        for shadow in shadows:
            shadow.usd = 0.0
        for request in offered:
            reading += request.reading_seconds
            for shadow in shadows:
                shadow.offer(request, speeds)
        offered.clear()
        keep = math.exp(-seconds / _LOAD_SECONDS)
        self.load = max(self.load * keep + reading * (1.0 - keep) / seconds, self.load * keep)
        saved = np.zeros(len(self._numbers))
        saved[: len(shadows)] = np.diff([0.0, *(shadow.usd for shadow in shadows)])
        return np.maximum(saved, 0.0)

    def _choose(self, whole_seconds: float) -> None:
        """Changes rules only for one that is better by what a start costs: each change may cost one."""
        bill = self._paper.bill
        best = bill.argmin(axis=0)
        gain = bill[self._rule, self._numbers] - bill[best, self._numbers]
        self._rule = np.where(gain > self._usd_per_second * whole_seconds, best, self._rule)
