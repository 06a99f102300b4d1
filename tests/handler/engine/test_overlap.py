"""Work beside a forked process begins after the fork; garbage collection comes back after the imports."""

from __future__ import annotations

import gc
import multiprocessing
import threading

import pytest

from handler.engine.overlap import after_the_next_fork, collection_paused


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


def test_collection_comes_back_also_after_a_failure() -> None:
    enabled: list[bool] = []

    def fail() -> None:
        with collection_paused():
            enabled.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert enabled == [False]
    assert gc.isenabled()
    gc.unfreeze()
