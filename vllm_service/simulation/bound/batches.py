"""Requests that come at once: a prompt is read whole, by one worker, so fewer are in time than there are seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
