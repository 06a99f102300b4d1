"""What own workers can save, slot by slot, of one way to cut traffic and one kind of work, at given prices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from vllm_service.routing.demand.isotonic import isotonic_decreasing
from vllm_service.simulation.bound.slots import Slots
from vllm_service.simulation.bound.work import Demand, Work
from vllm_service.simulation.bound.worker_lifetimes import Slotted, WorkerLifetimes, best_lifetimes
from vllm_service.simulation.scenario import OwnPhysics

Floats = NDArray[np.float64]
_CELL_SECONDS = 0.05


def most_by_one_worker(reading: Floats, patience: Floats, usd: Floats) -> float:
    """The most dollars of requests that one worker reads one after the other, each within its patience (seconds).

    Lawler and Moore's programme: whoever has least patience first; best[t] is of those who are read by then. Reading is
    rounded down to whole cells, which only lets more be read.
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


_SILENCE_SECONDS = 4.0  # about as long as a first token may take: over a silence, little work is carried


class Prices(NamedTuple):
    """work_share: of a worker's dollars, paid by the second of work that is done; the rest by the second it lives.

    late_share: of the requests, for which being late saves more than the price of being late.
    """

    work_share: float
    late_share: float


@dataclass(frozen=True)
class Savings:
    """able[slot, k]: worker-seconds of the slot's work that k workers can do. late: requests that may be."""

    demand: Demand
    work: Work
    slots: Slots
    able: Floats
    own: OwnPhysics
    late: int

    @classmethod
    def cut(cls, demand: Demand, work: Work, longest_seconds: float, own: OwnPhysics, late: int) -> Self:
        """Into slots of at most this length."""
        slots = Slots.cut(demand.arrival, _SILENCE_SECONDS, longest_seconds)
        pieces = (
            np.stack([demand.arrival, demand.arrival + demand.reading]),
            np.stack([demand.first_due, demand.end_due]),
            np.stack([work.reading, work.answering]),
        )
        kept = slice(0, 2 if work.answering.any() else 1)
        arrival, due, seconds = (array[kept] for array in pieces)
        return cls(demand, work, slots, slots.capacities(arrival, due, seconds, own.profile.max_workers), own, late)

    def least_usd(self, prices: Prices, start_usd: Floats) -> tuple[Floats, list[WorkerLifetimes]]:
        """Dollars of everything, at least, for each price of a start, and how the workers live then.

        Each request pays its work's price, if hosting is not cheaper, and a late one that of the work it has without
        deadlines. What a request in time pays more when hosted is saved by workers, or by being late, at a price.
        """
        hosted, second = self.demand.hosted_usd, prices.work_share * self.own.usd_per_second
        own_usd = np.minimum(hosted, second * self.work.seconds)
        late_usd = np.minimum(hosted, second * self.work.late)
        spared = hosted - late_usd
        price = _largest(spared, prices.late_share if self.late else 0.0)
        fixed = float(hosted.sum() - np.maximum(0.0, spared - price).sum()) - price * self.late
        saves = np.minimum(hosted - own_usd, np.maximum(0.0, price - (own_usd - late_usd)))
        saves = np.where(self.demand.can_be_in_time, saves, 0.0)
        life = self.own.usd_per_second - second
        lives = best_lifetimes(self._slotted(saves, life), life, start_usd)
        return fixed - np.array([each.saved_usd for each in lives]), lives

    def _slotted(self, saves: Floats, usd_per_second: float) -> Slotted:
        """What each worker saves in each slot: the dearest work first, as much as can be done."""
        slots, seconds = self.slots, self.work.seconds
        dearest = np.lexsort((-saves / np.maximum(seconds, 1e-12), slots.number))
        seconds, usd = seconds[dearest], saves[dearest]
        paying = np.maximum(0.0, saves - usd_per_second * self.work.seconds)
        whole = _falling(np.minimum(self._worth(usd, seconds), self._read_whole(saves)))
        last = _falling(np.minimum(self._worth(paying[dearest], seconds), self._read_whole(paying)))
        due = self.demand.end_due if self.work.answering.any() else self.demand.first_due
        begins, reach = self.demand.arrival[slots.first], np.maximum.reduceat(due, slots.first)
        overlap = np.append(np.maximum(0.0, reach[:-1] - begins[1:]), reach[-1] - begins[-1])
        first = np.minimum(whole, last + usd_per_second * overlap[:, None])
        return Slotted(begins, reach, whole, last, first)

    def _worth(self, usd: Floats, seconds: Floats) -> Floats:
        """[slot, k]: dollars of the first so many worker-seconds of each slot."""
        seconds_so_far, usd_so_far = np.append(0.0, np.cumsum(seconds)), np.append(0.0, np.cumsum(usd))
        before = seconds_so_far[self.slots.first][:, None]
        reach = np.minimum(before + self.able, seconds_so_far[self.slots.ends][:, None])
        worth: Floats = np.interp(reach, seconds_so_far, usd_so_far) - usd_so_far[self.slots.first][:, None]
        return worth

    def _read_whole(self, usd: Floats) -> Floats:
        """[slot, k]: at most k times what one worker can read in time, where all of a slot's requests come at once."""
        demand, slots = self.demand, self.slots
        most = np.full(len(slots.first), np.inf)
        patience = demand.first_due - demand.arrival
        at_once = demand.arrival[slots.first] == demand.arrival[slots.ends - 1]
        for slot in np.flatnonzero(at_once & (slots.ends - slots.first > 1)):
            those = slice(slots.first[slot], slots.ends[slot])
            most[slot] = most_by_one_worker(demand.reading[those], patience[those], usd[those])
        workers = np.arange(1, self.able.shape[1])
        return np.hstack([np.zeros((len(most), 1)), most[:, None] * workers])


def _largest(values: Floats, share: float) -> float:
    """What about this share of them exceed."""
    at = min(int(share * len(values)), len(values) - 1)
    return float(-np.partition(-values, at)[at])


def _falling(worth: Floats) -> Floats:
    """What each further worker adds; never more than the one before it."""
    added = np.diff(worth, axis=1)
    for slot in np.flatnonzero((np.diff(added, axis=1) > 0.0).any(axis=1)):
        added[slot] = isotonic_decreasing(added[slot].tolist())
    return added
