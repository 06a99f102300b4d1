"""Cuts traffic into slots, and computes how much of a slot's work k workers can do within its deadlines."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Slots:
    """Consecutive requests, cut at silences and where a slot grows too long."""

    #: The number of the request with which each slot begins.
    first: Whole
    #: How many requests there are in all slots.
    requests: int

    @classmethod
    def cut(cls, arrival: Floats, gap_seconds: float, longest_seconds: float) -> Slots:
        """Cuts after a silence of more than `gap_seconds`, and after `longest_seconds`. `arrival` is in order."""
        times = arrival.tolist()
        first = [0]
        began = times[0]
        for request, (before, now) in enumerate(pairwise(times), 1):
            if now - before > gap_seconds or now - began > longest_seconds:
                first.append(request)
                began = now
        return cls(np.array(first, np.int64), len(times))

    @property
    def ends(self) -> Whole:
        """One past the last request of each slot."""
        return np.append(self.first[1:], self.requests)

    @property
    def number(self) -> Whole:
        """The number of the slot that each request is in."""
        return np.repeat(np.arange(len(self.first)), self.ends - self.first)

    def capacities(self, arrival: Floats, deadline: Floats, work: Floats, workers: int) -> Floats:
        """Returns [slot, k]: worker-seconds of the slot's work that k workers can do, each piece before its deadline.

        Arrays hold a piece per request, or [piece, request]. Pieces may be split, interrupted and shared by workers,
        and what comes before and after the slot is left out: more than can really be done, which is what a bound needs.
        Such a fleet of k workers is one worker of k times the speed, and for one worker that may interrupt, the
        earliest deadline first gets the most done.
        """
        count = np.atleast_2d(work).shape[0]
        order = np.lexsort((arrival.ravel(), np.tile(self.number, count)))
        first, ends = count * self.first, count * self.ends
        works = work.ravel()[order]
        everything = np.add.reduceat(works, first)
        times, deadlines = arrival.ravel()[order].tolist(), deadline.ravel()[order].tolist()
        pieces = works.tolist()
        done = np.zeros((len(first), workers + 1))
        for slot, (begin, end) in enumerate(zip(first.tolist(), ends.tolist(), strict=True)):
            whole = float(everything[slot])
            those = (times[begin:end], deadlines[begin:end], pieces[begin:end])
            for number in range(1, workers + 1):
                if done[slot, number - 1] >= whole * (1.0 - 1e-9):  # one worker less does it all already
                    done[slot, number:] = whole
                    break
                done[slot, number] = _most_work(*those, float(number))
        return done


def _most_work(arrival: list[float], deadline: list[float], work: list[float], speed: float) -> float:
    """Returns seconds of work done, earliest deadline first; what is unfinished at its deadline is dropped there."""
    waiting: list[tuple[float, float]] = []
    now = arrival[0]
    done = 0.0
    at = 0
    count = len(arrival)
    while at < count or waiting:
        if not waiting and arrival[at] > now:
            now = arrival[at]
        while at < count and arrival[at] <= now:
            heapq.heappush(waiting, (deadline[at], work[at]))
            at += 1
        # Until the next arrival nothing can come first, so the piece runs until then, or to its deadline or end.
        due, left = heapq.heappop(waiting)
        until = min(due, arrival[at]) if at < count else due
        can = max(0.0, until - now) * speed
        if can >= left:
            done += left
            now += left / speed
        else:
            done += can
            now = max(now, until)
            if due > now:
                heapq.heappush(waiting, (due, left - can))
    return done
