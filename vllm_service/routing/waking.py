"""How many workers an endpoint should have: several regret rules, and the one that would have cost least so far.

A rule is two thresholds. Per worker k (the first, the second, ...), with `h` the hosted dollars that this worker would
have saved and `c dt` what it would have cost since the last look:

    up   = max(0, up + h - c dt)      while it is off: on at  up   >= wake  x B
    down = max(0, down + c dt - h)    while it is on:  off at down >= leave x B     B = c (cold start + idle time-out)

The h of worker k is measured on paper: what k always-warm workers would have taken of the real arrivals, less what
k - 1 would have (shadow.py). Each rule is played against the real traffic on paper, for each worker k; the
endpoint follows, per worker, the rule whose paper bill is the smallest. Rules are not played once: which thresholds pay
depends on whether bursts end before a cold start does, and the traffic says so within a few episodes.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.shadow import Demand, ShadowWorkers, Speeds

Floats = NDArray[np.float64]

WAKE = (0.3, 1.0, 2.0, math.inf)
AGE = (0.0, 0.5, 1.0)
LEAVE = (0.5, 1.0, 2.0, 5.0)
RULES = np.array([(wake, age, leave) for wake in WAKE for age in AGE for leave in LEAVE])


def rule_number(wake: float, age: float, leave: float) -> int:
    """Of the rule with these thresholds."""
    return (WAKE.index(wake) * len(AGE) + AGE.index(age)) * len(LEAVE) + LEAVE.index(leave)


FIRST_RULE = rule_number(1.0, 0.5, 1.0)
NEVER = rule_number(math.inf, 0.0, 1.0)
RED_SHARE, _PAYING_RED_SHARE = 0.01, 0.018
_MOST_WAITING = 100_000
_LOAD_SECONDS = 20.0
_BETTER = 2.0
_EVIDENT, _EVIDENT_AGE, _LOSSES_WEIGH = 2.0, 0.5, 2.0
_SMOOTHING_SECONDS = 10.0
_OFF, _STARTING, _ON = 0, 1, 2


class PaperWorkers:
    """Every rule, for every worker, on paper. Arrays are [rule, worker]; money in dollars."""

    def __init__(self, workers: int, usd_per_second: float, memory_seconds: float) -> None:
        shape = (len(RULES), workers)
        self._usd_per_second = usd_per_second
        self._memory_seconds = memory_seconds
        self._wake, self._age, self._leave = RULES[:, :1], RULES[:, 1:2], RULES[:, 2:]
        self.state: NDArray[np.int8] = np.zeros(shape, np.int8)
        self._regret: Floats = np.zeros(shape)
        self._regretted_for: Floats = np.zeros(shape)
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
        self._regretted_for = np.where(self._regret > 0.0, self._regretted_for + seconds, 0.0)
        self._cold_left -= seconds
        old_enough = self._regretted_for >= self._age * cold_seconds
        woken = off & old_enough & (self._regret >= self._wake * whole)
        gone = on & (self._regret >= self._leave * whole)
        ready = starting & (self._cold_left <= 0.0)
        self.state[woken], self.state[gone], self.state[ready] = _STARTING, _OFF, _ON
        self._cold_left[woken] = cold_seconds
        changed = woken | gone | ready
        self._regret[changed] = 0.0
        self._regretted_for[changed] = 0.0
        self.bill += np.where(gone, self._usd_per_second * idle_seconds, 0.0)


class WakeController:
    """For one endpoint. `demand` is called for each request, `decide` about once a second."""

    def __init__(self, workers: int, usd_per_second: float) -> None:
        self._usd_per_second = usd_per_second
        self._paper = PaperWorkers(workers, usd_per_second, memory_seconds=4 * 3600.0)
        self._shadows = [ShadowWorkers(count) for count in range(1, workers + 1)]
        self._rule = np.full(workers, FIRST_RULE)
        self._numbers = np.arange(workers)
        self._waiting: deque[Demand] = deque(maxlen=_MOST_WAITING)
        self.demand = self._waiting.append  # called for each request that could be served here
        self._looked_at: float | None = None
        self._on = np.zeros(workers, bool)
        self._unreleased: Floats = np.zeros(workers)
        self._offered_usd = self._saved_usd = 0.0
        self._lost_usd = 0.0
        self._evidence_usd: Floats = np.zeros(workers)
        self._evident_seconds: Floats = np.zeros(workers)
        self.load = 0.0

    def decide(self, now: float, cold_seconds: float, idle_seconds: float, speeds: Speeds, spent_usd: float) -> int:
        """How many workers there should be."""
        seconds = 1.0 if self._looked_at is None else now - self._looked_at
        if seconds <= 0.0:
            return self.wanted()
        self._looked_at = now
        saved = self._offer_to_shadows(seconds, speeds)
        self._paper.advance(seconds, saved, cold_seconds, idle_seconds)
        self._choose(cold_seconds + idle_seconds)
        self._weigh(saved, seconds)
        whole_usd = self._usd_per_second * (cold_seconds + idle_seconds)
        self._follow(spent_usd, whole_usd, self._evident(spent_usd, whole_usd, cold_seconds))
        return self.wanted()

    def wanted(self) -> int:
        """Workers that are on, counted from the first; a gap ends the count."""
        return int(len(self._on) if self._on.all() else np.argmin(self._on))

    def took(self, usd: float) -> None:
        """An own worker has taken a request that would have cost this much hosted."""
        self._saved_usd += usd

    def _weigh(self, saved: Floats, seconds: float) -> None:
        """What each worker that is off would have earned by now, and for how long that has been more than nothing."""
        evidence = np.maximum(0.0, self._evidence_usd + saved - self._usd_per_second * seconds)
        self._evidence_usd = np.where(self._on, 0.0, evidence)
        self._evident_seconds = np.where(self._evidence_usd > 0.0, self._evident_seconds + seconds, 0.0)

    def _evident(self, spent_usd: float, whole_usd: float, cold_seconds: float) -> NDArray[np.bool_]:
        """Workers that pay beyond doubt. What was lost before makes doubt: losses add up, however long the silence.

        Losses of a living worker may still be made good: until it is gone, only those before it count.
        """
        lost = max(0.0, spent_usd - self._saved_usd - RED_SHARE * self._offered_usd)
        self._lost_usd = min(lost, self._lost_usd) if self._on.any() else lost
        enough = _EVIDENT * whole_usd + _LOSSES_WEIGH * self._lost_usd
        return (self._evidence_usd >= enough) & (self._evident_seconds >= _EVIDENT_AGE * cold_seconds)

    def _follow(self, spent_usd: float, whole_usd: float, evident: NDArray[np.bool_]) -> None:
        """Workers as their rules have them; a new one only where it has paid on paper, is evident, or is affordable."""
        ruled = self._paper.state[self._rule, self._numbers] != _OFF
        bill = self._paper.bill
        pays = bill[NEVER] - bill[self._rule, self._numbers] > 2.0 * whole_usd
        self._on &= ruled
        for number in np.flatnonzero(ruled & ~self._on):
            red = spent_usd - self._saved_usd + whole_usd
            limit = (_PAYING_RED_SHARE if pays[number] else RED_SHARE) * self._offered_usd
            if evident[number] or red <= limit:
                self._on[number] = True

    def _offer_to_shadows(self, seconds: float, speeds: Speeds) -> Floats:
        """What the first, the second, ... worker would have saved since the last look."""
        offered = [speeds.offered(demand) for demand in self._waiting]
        self._waiting.clear()
        self._offered_usd += sum(request.usd for request in offered)
        reading = 0.0
        shadows = self._shadows[: int(3.0 * self.load) + 3]
        for shadow in shadows:
            shadow.usd = 0.0
        for request in offered:
            reading += request.reading_seconds
            for shadow in shadows:
                shadow.offer(request, speeds)
        keep = math.exp(-seconds / _LOAD_SECONDS)
        self.load = max(self.load * keep + reading * (1.0 - keep) / seconds, self.load * keep)
        # Two shadows take different requests of a burst; what the one has more than the other is noise until averaged.
        self._unreleased[: len(shadows)] += np.diff([0.0, *(shadow.usd for shadow in shadows)])
        released = self._unreleased * (1.0 - math.exp(-seconds / _SMOOTHING_SECONDS))
        self._unreleased -= released
        return np.array(falling(released.tolist()))

    def _choose(self, whole_seconds: float) -> None:
        """Changes rules only for one that is better by what a start costs: each change may cost one.

        A worker that is on stays with a rule that has it on: what its start has cost is spent, whoever was right.
        """
        bill, numbers = self._paper.bill, self._numbers
        best = bill.argmin(axis=0)
        gain = bill[self._rule, numbers] - bill[best, numbers]
        keeps = ~self._on | (self._paper.state[best, numbers] != _OFF)
        self._rule = np.where(keeps & (gain > _BETTER * self._usd_per_second * whole_seconds), best, self._rule)


def falling(values: list[float]) -> list[float]:
    """The nearest sequence that never rises (pooled neighbours): a further worker saves no more than the one before."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] * count < total * pools[-1][1]:
            last_total, last_count = pools.pop()
            total, count = total + last_total, count + last_count
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]
