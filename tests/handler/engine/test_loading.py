"""A load in a thread gives its result, raises its error, and is taken back when nobody wants it any more."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time

import pytest

from handler.engine.loading import collection_paused, in_thread


async def test_the_result_and_the_error_come_through() -> None:
    assert await in_thread(lambda: 7, undo=lambda loaded: None) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, undo=lambda loaded: None)


async def test_a_load_that_is_cancelled_is_waited_for_and_taken_back() -> None:
    started, go_on, undone = threading.Event(), threading.Event(), list[str]()

    def load() -> str:
        started.set()
        go_on.wait()
        return "engine"

    loading = asyncio.create_task(in_thread(load, undo=undone.append))
    await asyncio.to_thread(started.wait)
    loading.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert undone == ["engine"]


async def test_a_load_that_is_cancelled_is_interrupted_first() -> None:
    started, stop = threading.Event(), threading.Event()

    def load() -> None:
        started.set()
        stop.wait()
        raise InterruptedError

    loading = asyncio.create_task(in_thread(load, undo=lambda loaded: None, interrupt=stop.set))
    await asyncio.to_thread(started.wait)
    loading.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await loading


async def test_a_load_that_does_not_end_loses_its_processes_and_is_not_waited_for() -> None:
    children: list[multiprocessing.process.BaseProcess] = []
    started = threading.Event()

    def load() -> None:
        children.append(multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,)))
        children[0].start()
        started.set()
        threading.Event().wait()

    loading = asyncio.create_task(in_thread(load, undo=lambda loaded: None, patience_seconds=0.05))
    await asyncio.to_thread(started.wait)
    loading.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await loading
        await asyncio.to_thread(children[0].join)
    assert children[0].exitcode == -9


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
