"""Capacity follows the engine's steps, and work beside a forked process begins after the fork."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass

import pytest

from handler.engine.vllm_parts import EngineSteps, after_the_next_fork


@dataclass
class Stats:
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    kv_cache_usage: float = 0.0


@pytest.mark.parametrize(
    ("stats", "capacity"),
    [
        (Stats(10, 0, 0.95), 64),  # full, but nobody waits
        (Stats(10, 5, 0.30), 64),  # they wait for a prefill
        (Stats(10, 5, 0.95), 10),
        (Stats(0, 1, 0.95), 1),
    ],
)
def test_the_capacity_is_what_runs_once_the_cache_is_full(stats: Stats, capacity: int) -> None:
    steps = EngineSteps()
    assert steps.capacity(64) == 64
    steps.record(stats, 0)
    assert steps.capacity(64) == capacity
    steps.record(None, 0)
    assert (steps.capacity(64), steps.count) == (capacity, 2)
    steps.record(Stats(3, 0, 0.2), 0)
    assert steps.capacity(64) == 64


def test_each_engine_core_has_its_own_cache() -> None:
    steps = EngineSteps()
    steps.record(Stats(4, 0, 0.1), 1)
    assert steps.capacity(8) == 16
    steps.record(Stats(5, 2, 1.0), 1)
    assert steps.capacity(8) == 13


def test_the_work_begins_with_the_first_fork_and_only_in_the_parent() -> None:
    done: list[str] = []
    began = threading.Event()

    def work() -> None:
        done.append(threading.current_thread().name)
        began.set()

    after_the_next_fork(work)
    assert done == []
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=lambda: None)
        child.start()
        child.join()
        assert child.exitcode == 0
    assert began.wait(5)
    assert done == ["beside-the-engine-core"]
