"""Bounds what own workers can save, for one way to cut traffic into slots, one kind of work, and given prices.

The prices are those of a Lagrangian relaxation: by weak duality every price gives a bound, and the best one is sought
(clairvoyant.py). docs/routing.md explains what each of them relaxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.demand.isotonic import isotonic_decreasing
from vllm_service.simulation.bound.slots import Slots
from vllm_service.simulation.bound.work import Demand, Work
from vllm_service.simulation.bound.worker_lifetimes import SlotSavings, WorkerLifetimes, best_lifetimes
from vllm_service.simulation.scenario import OwnPhysics

Floats = NDArray[np.float64]
#: The time grid of most_by_one_worker; a coarser one would be faster and bound less tightly.
_CELL_SECONDS = 0.05


def most_by_one_worker(reading: Floats, patience: Floats, usd: Floats) -> float:
    """Returns the most dollars of requests that one worker reads one after the other, each within its patience.

    Lawler and Moore's dynamic programme for jobs that arrive at once, with weights and deadlines: the least patience
    first; best[t] is the most dollars of requests that are read by cell t. Reading is rounded down to whole cells,
    which only lets more be read.
    """
    cells = np.floor(reading / _CELL_SECONDS).astype(np.int64).tolist()
    ends = np.floor(patience / _CELL_SECONDS + 1e-9).astype(np.int64)
    best = np.zeros(int(max(ends.max(), 0)) + 1)
    for request in np.argsort(ends, kind="stable").tolist():
        takes, end = cells[request], int(ends[request])
        if takes <= end:
            best[takes : end + 1] = np.maximum(best[takes : end + 1], best[: end + 1 - takes] + usd[request])
            best[end + 1 :] = np.maximum(best[end + 1 :], best[end])
    return float(best[-1])


#: About as long as a first token may take: over a longer silence, little work is carried into the next slot.
_SILENCE_SECONDS = 4.0


class Prices(NamedTuple):
    """The prices of one relaxation, as shares."""

    #: The share of a worker's dollars that is paid by the second of work done; the rest is by the second it lives.
    work_share: float
    #: The share of requests for which being late saves more than the price of being late.
    late_share: float


@dataclass(frozen=True)
class Savings:
    """One way to cut the traffic, and one kind of work."""

    demand: Demand
    work: Work
    slots: Slots
    #: [slot, k]: worker-seconds of the slot's work that k workers can do.
    capacity: Floats
    own: OwnPhysics
    #: How many requests may be late.
    late: int

    @classmethod
    def cut(cls, demand: Demand, work: Work, longest_seconds: float, own: OwnPhysics, late: int) -> Self:
        """Cuts the traffic into slots of at most this length."""
        slots = Slots.cut(demand.arrival, _SILENCE_SECONDS, longest_seconds)
        pieces = (
            np.stack([demand.arrival, demand.arrival + demand.reading]),
            np.stack([demand.first_due, demand.end_due]),
            np.stack([work.reading, work.answering]),
        )
        # Where the kind of work has no answering, its pieces would only slow the computation.
        kept = slice(0, 2 if work.answering.any() else 1)
        arrival, due, seconds = (array[kept] for array in pieces)
        return cls(demand, work, slots, slots.capacities(arrival, due, seconds, own.profile.max_workers), own, late)

    def least_usd(self, prices: Prices, start_usd: Floats) -> tuple[Floats, list[WorkerLifetimes]]:
        """Returns the least dollars of everything for each price of a start, and the workers' lifetimes then.

        Each request pays its work's price, if hosting is not cheaper, and a late one that of the work it has without
        deadlines. What a request in time pays more when hosted is saved by workers, or by being late, at a price.
        """
        hosted = self.demand.hosted_usd
        second = prices.work_share * self.own.usd_per_second
        own_usd = np.minimum(hosted, second * self.work.seconds)
        late_usd = np.minimum(hosted, second * self.work.late)
        spared = hosted - late_usd
        price = _largest(spared, prices.late_share if self.late else 0.0)
        # Each request is hosted, or late at the price, whichever costs less; `late` of them get the price back.
        fixed = float(hosted.sum() - np.maximum(0.0, spared - price).sum()) - price * self.late
        # Without a worker a request is hosted, or late at the price, whichever costs less: a worker saves the rest.
        saves = np.minimum(hosted - own_usd, np.maximum(0.0, price - (own_usd - late_usd)))
        saves = np.where(self.demand.can_be_in_time, saves, 0.0)
        life = self.own.usd_per_second - second
        lifetimes = best_lifetimes(self._slot_savings(saves, life), life, start_usd)
        return fixed - np.array([each.saved_usd for each in lifetimes]), lifetimes

    def _slot_savings(self, saves: Floats, usd_per_second: float) -> SlotSavings:
        """Returns what each worker saves in each slot: the dearest work per second first, as much as can be done."""
        slots = self.slots
        seconds = self.work.seconds
        dearest = np.lexsort((-saves / np.maximum(seconds, 1e-12), slots.number))
        seconds = seconds[dearest]
        usd = saves[dearest]
        # In the slot in which a worker stops, it pays for the time of its work: only savings beyond that count.
        paying = np.maximum(0.0, saves - usd_per_second * self.work.seconds)
        whole = _marginal(np.minimum(self._worth(usd, seconds), self._read_whole(saves)))
        last = _marginal(np.minimum(self._worth(paying[dearest], seconds), self._read_whole(paying)))
        due = self.demand.end_due if self.work.answering.any() else self.demand.first_due
        begins = self.demand.arrival[slots.first]
        reach = np.maximum.reduceat(due, slots.first)
        # Work that is due after the next slot begins may be done in time that is already paid for there.
        overlap = np.append(np.maximum(0.0, reach[:-1] - begins[1:]), reach[-1] - begins[-1])
        first = np.minimum(whole, last + usd_per_second * overlap[:, None])
        return SlotSavings(begins, reach, whole, last, first)

    def _worth(self, usd: Floats, seconds: Floats) -> Floats:
        """Returns [slot, k]: the dollars of as many of each slot's first worker-seconds as k workers can do."""
        seconds_so_far = np.append(0.0, np.cumsum(seconds))
        usd_so_far = np.append(0.0, np.cumsum(usd))
        before = seconds_so_far[self.slots.first][:, None]
        reach = np.minimum(before + self.capacity, seconds_so_far[self.slots.ends][:, None])
        worth: Floats = np.interp(reach, seconds_so_far, usd_so_far) - usd_so_far[self.slots.first][:, None]
        return worth

    def _read_whole(self, usd: Floats) -> Floats:
        """Returns [slot, k]: at most k times what one worker reads in time, where a slot's requests come at once.

        It counts that prompts are read whole, which the capacities do not. Infinite for all other slots.
        """
        demand = self.demand
        slots = self.slots
        most = np.full(len(slots.first), np.inf)
        patience = demand.first_due - demand.arrival
        at_once = demand.arrival[slots.first] == demand.arrival[slots.ends - 1]
        for slot in np.flatnonzero(at_once & (slots.ends - slots.first > 1)):
            those = slice(slots.first[slot], slots.ends[slot])
            most[slot] = most_by_one_worker(demand.reading[those], patience[those], usd[those])
        workers = np.arange(1, self.capacity.shape[1])
        return np.hstack([np.zeros((len(most), 1)), most[:, None] * workers])


def _largest(values: Floats, share: float) -> float:
    """Returns the value that about this share of them exceed."""
    at = min(int(share * len(values)), len(values) - 1)
    return float(-np.partition(-values, at)[at])


def _marginal(worth: Floats) -> Floats:
    """Returns what each further worker adds, made never to rise with their number; sums are never lowered."""
    added = np.diff(worth, axis=1)
    for slot in np.flatnonzero((np.diff(added, axis=1) > 0.0).any(axis=1)):
        added[slot] = isotonic_decreasing(added[slot].tolist())
    return added
