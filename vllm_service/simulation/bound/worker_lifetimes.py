"""The lifetimes with which workers save most if all traffic is known: a dynamic programme over the slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SlotSavings:
    """Slots in the order of time, and dollars [slot, k] that the (k+1)-th worker saves there, never rising with k."""

    #: Seconds at which each slot begins.
    begins: Floats
    #: Seconds by which a worker has to be there to take any of the slot's requests.
    reach: Floats
    #: If it is there all the time; that time is paid for between slots (best_lifetimes).
    whole: Floats
    #: If it stops in this slot, less what the time of its work costs.
    last: Floats
    #: If it starts in this slot and stays, less what the time of its work before the next slot costs.
    first: Floats


@dataclass(frozen=True)
class WorkerLifetimes:
    """The sums over all workers: dollars saved, seconds lived, starts."""

    saved_usd: float
    seconds: float
    starts: int


def best_lifetimes(slots: SlotSavings, usd_per_second: float, start_usd: Floats) -> list[WorkerLifetimes]:
    """Returns the best lifetimes for each price of a start.

    What worker k saves never rises with k, so the workers' lifetimes are independent of one another and each is solved
    alone. After a slot a worker is off, came in this slot (perhaps having stopped in it before), or was there before.
    Between two slots its time is paid: from the one's beginning to the other's if it was there before, else from the
    one's reach on. A state is [dollars, seconds, starts] by price and worker; the last two follow the best dollars.
    """
    shape = (3, len(start_usd), slots.whole.shape[1])
    off = np.zeros(shape)
    came = np.full(shape, -np.inf)  # before the first slot no worker is there
    stayed = np.full(shape, -np.inf)
    starting = np.stack([-start_usd, np.zeros(len(start_usd)), np.ones(len(start_usd))])[:, :, None]
    began = reached = float(slots.begins[0])
    rows = zip(slots.begins.tolist(), slots.reach.tolist(), slots.whole, slots.last, slots.first, strict=True)
    for begins, reach, whole, last, first in rows:
        silence = max(0.0, begins - reached)
        there = _better(_lived(stayed, begins - began, usd_per_second), _lived(came, silence, usd_per_second))
        # A start in this slot: of a worker that was off, or of one that was there and has stopped in this slot.
        start = _better(off, there) + starting
        off = _better(off, _plus(_better(there, start), last))
        stayed = _plus(there, whole)
        came = _plus(start, first)
        began = begins
        reached = reach
    return [WorkerLifetimes(float(usd), float(seconds), round(starts)) for usd, seconds, starts in off.sum(axis=2).T]


def _plus(state: Floats, usd: Floats) -> Floats:
    return np.stack([state[0] + usd, state[1], state[2]])


def _lived(state: Floats, seconds: float, usd_per_second: float) -> Floats:
    after: Floats = state + np.array([-usd_per_second * seconds, seconds, 0.0])[:, None, None]
    return after


def _better(one: Floats, other: Floats) -> Floats:
    better: Floats = np.where(one[0] >= other[0], one, other)
    return better
