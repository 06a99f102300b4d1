"""A lower bound by prices on own worker-seconds: weak duality, so that every price vector gives a true bound.

Own work is sold at a price per second that varies from slot to slot. A request costs the lesser of its hosted price
and its work at the lowest price within its deadline. Workers earn price less cost, and pay their starts; the best that
one of them can earn, times their number, is subtracted. Prices are improved step by step, the best bound is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 150


class Dual:
    """One trace in slots. hosted_usd, work (worker-seconds), arrival and deadline (seconds) per request."""

    def __init__(
        self,
        hosted_usd: Floats,
        work: Floats,
        arrival: Floats,
        ends: Floats,
        *,
        slot_seconds: float,
        usd_per_second: float,
        start_seconds: float,
        workers: int,
        late_share: float,
    ) -> None:
        self._hosted, self._work = hosted_usd, work
        self._slot_seconds, self._second = slot_seconds, usd_per_second
        self._start_usd, self._workers = usd_per_second * start_seconds, workers
        self._late = int(np.ceil(late_share * len(work)))
        self._first = (arrival // slot_seconds).astype(np.int64)
        self._last = (ends // slot_seconds).astype(np.int64)
        self.slots = int(self._last.max()) + 1

    def best(self, start_price: float, least_price: float) -> float:
        """Dollars: the largest bound found with prices that never fall below `least_price`."""
        price = np.full(self.slots, start_price)
        best, goal = 0.0, float(self._hosted.sum())
        for step in range(_STEPS):
            value, slope = self._value(price)
            best = max(best, value)
            size = float(slope @ slope)
            if size <= 0.0:
                break
            stride = 1.5 * 0.985**step
            price = np.maximum(least_price, price + stride * max(goal - value, 1e-9) * 0.3 / size * slope)
        return best

    def _value(self, price: Floats) -> tuple[float, Floats]:
        """The bound at these prices, and the direction in which it grows."""
        cheapest, at = self._cheapest(price)
        own = cheapest * self._work
        cost = np.minimum(self._hosted, own)
        # Late ones may be worked on whenever it is cheapest, also after everything else.
        spared = cost - np.minimum(self._hosted, min(self._second, float(price.min())) * self._work)
        late = np.argpartition(spared, -self._late)[-self._late :]
        late = late[spared[late] > 0.0]
        chosen = own < self._hosted
        chosen[late] = False
        earned, on = self._earn((price - self._second) * self._slot_seconds)
        slope: Floats = np.bincount(at[chosen], weights=self._work[chosen], minlength=self.slots).astype(np.float64)
        slope = slope - self._workers * self._slot_seconds * on
        return float(cost.sum() - spared[late].sum()) - self._workers * earned, slope

    def _cheapest(self, price: Floats) -> tuple[Floats, NDArray[np.int64]]:
        cheapest, at = price[self._first], self._first.copy()
        for step in range(1, int((self._last - self._first).max()) + 1):
            slot = np.minimum(self._first + step, self._last)
            lower = price[slot] < cheapest
            cheapest = np.where(lower, price[slot], cheapest)
            at = np.where(lower, slot, at)
        return cheapest, at

    def _earn(self, income: Floats) -> tuple[float, Floats]:
        """The most one worker can earn by choosing when to live, and in which slots it does."""
        off, on, start = 0.0, -np.inf, self._start_usd
        was_off: list[bool] = []  # the best way to be on in this slot is to start in it
        leave: list[bool] = []  # the best way to be off after this slot is to leave after it
        for gain in income.tolist():
            fresh = off - start
            was_off.append(fresh > on)
            on = max(on, fresh) + gain
            leave.append(on > off)
            off = max(off, on)
        lives = np.zeros(len(income))
        living = False
        for slot in range(len(income) - 1, -1, -1):
            living = living or leave[slot]
            if living:
                lives[slot] = 1.0
                living = not was_off[slot]
        return off, lives
