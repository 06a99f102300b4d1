"""How many workers an endpoint should have: several regret rules, and the one that would have cost least so far.

A rule is two thresholds. Per worker k (the first, the second, ...), with `h` the hosted dollars that this worker would
have saved and `c dt` what it would have cost since the last look:

    up   = max(0, up + h - c dt)      while it is off: on at  up   >= wake  x B
    down = max(0, down + c dt - h)    while it is on:  off at down >= leave x B     B = c (cold start + idle time-out)

The h of worker k is the demand's dollars x clip(L - (k - 1), 0, 1) / L, L = worker-seconds of work per second by what
share of its time a worker can be busy. Each rule is played against the real traffic on paper, for each worker k; the
endpoint follows, per worker, the rule whose paper bill is the smallest. Rules are not played once: which thresholds pay
depends on whether bursts end before a cold start does, and the traffic says so within a few episodes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WAKE = (0.1, 0.3, 0.8, 2.0, 5.0, math.inf)
LEAVE = (0.5, 1.0, 2.0, 5.0, 20.0)
RULES = np.array([(wake, leave) for wake in WAKE for leave in LEAVE])
FIRST_RULE = WAKE.index(0.8) * len(LEAVE) + LEAVE.index(1.0)
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

    def __init__(self, workers: int, usd_per_second: float, busy_share: float = 0.8) -> None:
        self._usd_per_second = usd_per_second
        self._paper = PaperWorkers(workers, usd_per_second, memory_seconds=4 * 3600.0)
        self._rule = np.full(workers, FIRST_RULE)
        self._numbers = np.arange(workers)
        self._busy_share = busy_share
        self._usd = self._reading = self._answering = 0.0
        self._load_reading = self._load_answering = 0.0
        self._began: float | None = None
        self._looked_at = 0.0
        self.load = 0.0

    def demand(self, usd: float, reading_seconds: float, answering_seconds: float) -> None:
        """A request came that would cost this much hosted, and this much work here."""
        self._usd += usd
        self._reading += reading_seconds
        self._answering += answering_seconds

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, prefill_share: float) -> int:
        """How many workers there should be."""
        if self._began is None:
            self._began = self._looked_at = now - 1.0
        seconds = now - self._looked_at
        if seconds <= 0.0:
            return self.wanted()
        self._measure_load(now, seconds, prefill_share)
        load = self.load / self._busy_share
        shares = np.clip(load - self._numbers, 0.0, 1.0) / max(load, 1e-12)
        self._paper.advance(seconds, self._usd * shares, cold_seconds, idle_seconds)
        self._usd = self._reading = self._answering = 0.0
        self._looked_at = now
        self._choose(cold_seconds + idle_seconds)
        return self.wanted()

    def wanted(self) -> int:
        """Workers whose rule has them on, counted from the first; a gap ends the count."""
        on = self._paper.state[self._rule, self._numbers] != _OFF
        return int(len(on) if on.all() else np.argmin(on))

    def _measure_load(self, now: float, seconds: float, prefill_share: float) -> None:
        memory = 60.0
        keep = math.exp(-seconds / memory)
        self._load_reading = self._load_reading * keep + self._reading * (1.0 - keep) / seconds
        self._load_answering = self._load_answering * keep + self._answering * (1.0 - keep) / seconds
        assert self._began is not None
        known = 1.0 - math.exp(-(now - self._began) / memory)
        reading, answering = self._load_reading / known, self._load_answering / known
        self.load = max(reading, prefill_share * reading + answering)

    def _choose(self, whole_seconds: float) -> None:
        """Changes rules only for one that is better by what a start costs: each change may cost one."""
        bill = self._paper.bill
        best = bill.argmin(axis=0)
        gain = bill[self._rule, self._numbers] - bill[best, self._numbers]
        self._rule = np.where(gain > self._usd_per_second * whole_seconds, best, self._rule)
