"""What the engine's steps tell: that it works, and whether its KV cache has room for more requests."""

from __future__ import annotations

from typing import Protocol

# Requests also wait for a step or two while others are prefilled; only with a full cache is that a lack of room.
FULL_SHARE = 0.8


class SchedulerStats(Protocol):
    """The part of vLLM's statistics of one step that is read here."""

    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float


class EngineSteps:
    """Counts the steps of every engine core, and remembers how the last one of each left its KV cache."""

    def __init__(self) -> None:
        self.count = 0
        self._full: dict[int, int | None] = {0: None}  # by engine core: requests that fit, None where more would

    def record(self, stats: SchedulerStats | None, engine_index: int) -> None:
        """One step is over; without `stats` it says nothing about the cache."""
        self.count += 1
        if stats is not None:
            is_full = stats.num_waiting_reqs > 0 and stats.kv_cache_usage >= FULL_SHARE
            self._full[engine_index] = stats.num_running_reqs if is_full else None

    def capacity(self, max_num_seqs: int) -> int:
        """Requests that run now rather than wait: `max_num_seqs` for each core, or what fits into a full cache.

        Never 0: an idle engine makes no step that could say that there is room again.
        """
        return max(1, sum(max_num_seqs if fits is None else fits for fits in self._full.values()))
