"""Rules of waking, played on paper against the real traffic: what each would have cost, worker by worker.

A rule is three thresholds. Per worker k (the first, the second, ...), with `h` the hosted dollars that this worker
would have saved and `c dt` what it would have cost since the last look, and B = c (cold start + idle time-out):

    up   = max(0, up + h - c dt)      while it is off: on at  up   >= wake x B, above 0 for age x cold start
    down = max(0, down + c dt - h)    while it is on:  off at down >= leave x B
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WAKE = (0.3, 1.0, 2.0, math.inf)
AGE = (0.0, 0.5, 1.0)
LEAVE = (0.5, 1.0, 2.0, 5.0)
RULES = np.array([(wake, age, leave) for wake in WAKE for age in AGE for leave in LEAVE])


def rule_number(wake: float, age: float, leave: float) -> int:
    """Of the rule with these thresholds."""
    return (WAKE.index(wake) * len(AGE) + AGE.index(age)) * len(LEAVE) + LEAVE.index(leave)


FIRST_RULE = rule_number(1.0, 0.0, 0.5)
NEVER = rule_number(math.inf, 0.0, 1.0)
OFF, _STARTING, _ON = 0, 1, 2


class ThresholdRules:
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
        off, starting, on = self.state == OFF, self.state == _STARTING, self.state == _ON
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
        self.state[woken], self.state[gone], self.state[ready] = _STARTING, OFF, _ON
        self._cold_left[woken] = cold_seconds
        changed = woken | gone | ready
        self._regret[changed] = 0.0
        self._regretted_for[changed] = 0.0
        self.bill += np.where(gone, self._usd_per_second * idle_seconds, 0.0)
