"""When workers should live, if all were known: the most that each can save, slot by slot, by a dynamic programme."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Slotted:
    """Slots in order, seconds; and [slot, k] what the (k+1)-th worker saves there, in dollars, falling with k.

    begins: of a slot; reach: by then a worker has to be there to take any of its requests.
    whole: if it is there all the time, which is paid for elsewhere. last: if it leaves in this slot, less what its work
    costs. first: if it comes in this slot and stays, less what work before the next slot costs.
    """

    begins: Floats
    reach: Floats
    whole: Floats
    last: Floats
    first: Floats


@dataclass(frozen=True)
class WorkerLifetimes:
    """Of all workers together: dollars saved, seconds lived, starts."""

    saved_usd: float
    seconds: float
    starts: int


def best_lifetimes(slots: Slotted, usd_per_second: float, start_usd: Floats) -> list[WorkerLifetimes]:
    """For each price of a start. A worker is off, came in this slot (after having left in it?), or was there before.

    Between two slots a worker is paid for: from the one's beginning to the other's if it was there before, else from
    the one's reach on. Rows of the states: dollars, seconds, starts; the last two follow the best dollars.
    """
    shape = (3, len(start_usd), slots.whole.shape[1])
    off = np.zeros(shape)
    came, stayed = np.full(shape, -np.inf), np.full(shape, -np.inf)
    starting = np.stack([-start_usd, np.zeros(len(start_usd)), np.ones(len(start_usd))])[:, :, None]
    began = reached = float(slots.begins[0])
    rows = zip(slots.begins.tolist(), slots.reach.tolist(), slots.whole, slots.last, slots.first, strict=True)
    for begins, reach, whole, last, first in rows:
        silence = max(0.0, begins - reached)
        there = _better(_lived(stayed, begins - began, usd_per_second), _lived(came, silence, usd_per_second))
        start = _better(off, there) + starting
        off = _better(off, _plus(_better(there, start), last))
        stayed, came = _plus(there, whole), _plus(start, first)
        began, reached = begins, reach
    return [WorkerLifetimes(float(usd), float(seconds), round(starts)) for usd, seconds, starts in off.sum(axis=2).T]


def _plus(state: Floats, usd: Floats) -> Floats:
    return np.stack([state[0] + usd, state[1], state[2]])


def _lived(state: Floats, seconds: float, usd_per_second: float) -> Floats:
    after: Floats = state + np.array([-usd_per_second * seconds, seconds, 0.0])[:, None, None]
    return after


def _better(one: Floats, other: Floats) -> Floats:
    better: Floats = np.where(one[0] >= other[0], one, other)
    return better
