"""Work in daemon threads: bounded, told when its caller has left, and never waited for by a process that ends."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from handler.start.daemon_threads import DaemonThreads
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
HANGS = """
import asyncio, threading
from handler.start.daemon_threads import DaemonThreads

async def main():
    try:
        await asyncio.wait_for(DaemonThreads("x", 1).run(lambda left: threading.Event().wait()), 0.05)
    except TimeoutError:
        print("left")

asyncio.run(main())
"""


async def test_the_result_and_the_error_come_through() -> None:
    threads = DaemonThreads("test", 2)
    assert await threads.run(lambda left: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda left: 1 // 0)


async def test_however_many_come_no_more_run_at_a_time_than_may() -> None:
    threads, running, most = DaemonThreads("test", 3), 0, 0
    lock = threading.Lock()

    def work(left: threading.Event) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        left.wait(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*(threads.run(work) for _ in range(60)))
    assert (running, most) == (0, 3)


async def test_work_that_was_left_learns_of_it_and_keeps_its_place_until_it_ends() -> None:
    threads = DaemonThreads("test", 1)
    seen, may_end = threading.Event(), threading.Event()

    def work(left: threading.Event) -> None:
        left.wait(60)
        seen.set()
        may_end.wait(60)

    first = asyncio.create_task(threads.run(work))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(seen.is_set)
    second = asyncio.create_task(threads.run(lambda left: 2))
    await asyncio.wait({second}, timeout=0.05)
    assert not second.done()
    may_end.set()
    assert await second == 2


async def test_a_process_that_ends_does_not_wait_for_its_threads() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HANGS), stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    async with asyncio.timeout(30):
        stdout, _ = await process.communicate()
    assert (process.returncode, stdout) == (0, b"left\n")
