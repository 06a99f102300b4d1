"""Plays threshold rules on paper against the real traffic: what each rule would have cost, worker by worker.

A rule is three thresholds. Per worker k (the first, the second, ...), with `h` the hosted dollars that this worker
would have saved and `c dt` what it would have cost since the last step, and B = c (cold start + idle timeout), which is
what a start costs:

    up   = max(0, up + h - c dt)      while it is off: on at  up   >= wake x B, above 0 for age x cold start
    down = max(0, down + c dt - h)    while it is on:  off at down >= leave x B

Both sums are a worker's regret: of being off while it would have paid, or on while it does not. They charge every
second, so a warm worker at a low rate is not taken for free.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The thresholds that are tried; every combination is a rule. An infinite `wake` never starts a worker.
WAKE = (0.3, 1.0, 2.0, math.inf)
#: In cold starts: a burst that is over before a worker could be warm is no reason to start one.
AGE = (0.0, 0.5, 1.0)
LEAVE = (0.5, 1.0, 2.0, 5.0)
RULES = np.array([(wake, age, leave) for wake in WAKE for age in AGE for leave in LEAVE])


def rule_number(wake: float, age: float, leave: float) -> int:
    """Returns the row of RULES that has these thresholds."""
    return (WAKE.index(wake) * len(AGE) + AGE.index(age)) * len(LEAVE) + LEAVE.index(leave)


#: The rule that every worker begins with: wake when the regret is a whole start, leave when it is half of one.
FIRST_RULE = rule_number(1.0, 0.0, 0.5)
#: A rule without workers; its bill is what hosted offers alone would have cost.
NEVER = rule_number(math.inf, 0.0, 1.0)
OFF, _STARTING, _ON = 0, 1, 2


class ThresholdRules:
    """Every rule for every worker. Arrays are [rule, worker]; money is in dollars.

    A bill is what the rule pays for its worker, plus the hosted dollars that the worker would have saved while the rule
    did not have it warm. Bills decay with `memory_seconds`, so that rules are compared by recent traffic.
    """

    def __init__(self, workers: int, usd_per_second: float, memory_seconds: float) -> None:
        shape = (len(RULES), workers)
        self._usd_per_second = usd_per_second
        self._memory_seconds = memory_seconds
        # Columns, not vectors: they broadcast over the workers.
        self._wake = RULES[:, :1]
        self._age = RULES[:, 1:2]
        self._leave = RULES[:, 2:]
        #: OFF, starting or on.
        self.state: NDArray[np.int8] = np.zeros(shape, np.int8)
        #: `up` of a worker that is off, `down` of one that is on: a worker never has both.
        self._regret: Floats = np.zeros(shape)
        #: How long the regret has been above zero.
        self._regret_seconds: Floats = np.zeros(shape)
        #: What is left of a cold start; means nothing unless the worker is starting.
        self._cold_left: Floats = np.zeros(shape)
        self.bill: Floats = np.zeros(shape)

    def set_price(self, usd_per_second: float) -> None:
        """Sets what a second of one worker costs from now on."""
        self._usd_per_second = usd_per_second

    def advance(self, seconds: float, saved: Floats, cold_seconds: float, idle_seconds: float) -> None:
        """Plays these seconds. `saved`: hosted dollars that each worker would have saved in them, had it been warm."""
        cost = self._usd_per_second * seconds
        start_usd = self._usd_per_second * (cold_seconds + idle_seconds)
        off = self.state == OFF
        starting = self.state == _STARTING
        on = self.state == _ON
        # A worker that is on and not needed leaves within a long silence, not at its end: it pays only until then.
        left = (self._leave * start_usd - self._regret) / self._usd_per_second
        paid = np.where(on, np.minimum(cost, np.maximum(left, 0.0) * self._usd_per_second), 0.0)
        paid = np.where(starting, np.minimum(seconds, self._cold_left) * self._usd_per_second, paid)
        self.bill *= math.exp(-seconds / self._memory_seconds)
        self.bill += np.where(on, paid, paid + saved)
        change = np.where(off, saved - cost, np.where(on, cost - saved, 0.0))
        self._regret = np.maximum(0.0, self._regret + change)
        self._regret_seconds = np.where(self._regret > 0.0, self._regret_seconds + seconds, 0.0)
        self._cold_left -= seconds
        old_enough = self._regret_seconds >= self._age * cold_seconds
        woken = off & old_enough & (self._regret >= self._wake * start_usd)
        stopped = on & (self._regret >= self._leave * start_usd)
        ready = starting & (self._cold_left <= 0.0)
        # The three masks exclude one another, since each holds for another state: their order does not matter.
        self.state[woken] = _STARTING
        self.state[stopped] = OFF
        self.state[ready] = _ON
        self._cold_left[woken] = cold_seconds
        changed = woken | stopped | ready
        self._regret[changed] = 0.0
        self._regret_seconds[changed] = 0.0
        self.bill += np.where(stopped, self._usd_per_second * idle_seconds, 0.0)
