"""A process that is forked or spawned ends when the one that made it was killed, and not before."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]

#: Forks from a thread that ends at once, as an engine is loaded in HTTP mode; the child forks again.
FORKS = """
import os, threading, time
from handler.start.children import end_with_this_process
end_with_this_process()
end_with_this_process()

def fork():
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(1, b"%d\\n" % os.getpid())
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(600)

thread = threading.Thread(target=fork)
thread.start()
thread.join()
time.sleep(600)
"""
#: The parent is gone before its child looks.
TOO_LATE = """
import os, time
from handler.start.children import end_with
if os.fork() == 0:
    os.write(1, b"%d\\n" % os.getpid())
    os.write(1, b"%d\\n" % os.getpid())
    end_with(os.getppid() + 100000)
    time.sleep(600)
time.sleep(600)
"""
#: As vLLM starts processes with VLLM_WORKER_MULTIPROC_METHOD=spawn: they import the main file anew.
SPAWNS = """
import multiprocessing, os, sys, time
from handler.start.children import end_as_a_spawned_process

def work():
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    for _ in range(2):
        multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(600)
if __name__ == "__mp_main__":
    end_as_a_spawned_process()
"""


async def started(tmp_path: Path, program: str) -> tuple[asyncio.subprocess.Process, list[psutil.Process]]:
    """The program, and the two processes whose numbers it has written."""
    file = tmp_path / "program.py"
    file.write_text(program)
    parent = await asyncio.create_subprocess_exec(
        sys.executable, str(file), stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        return parent, [psutil.Process(int(await parent.stdout.readline())) for _ in range(2)]


@pytest.mark.parametrize("program", [FORKS, SPAWNS], ids=["forked", "spawned"])
async def test_children_live_as_long_as_the_process_and_no_longer(tmp_path: Path, program: str) -> None:
    parent, children = await started(tmp_path, program)
    try:
        assert all(child.is_running() for child in children)
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
        await until(lambda: not any(map(is_alive, children)), 10)
    finally:
        for process in children:
            if is_alive(process):
                process.kill()


async def test_a_child_whose_parent_is_gone_already_ends_too(tmp_path: Path) -> None:
    parent, children = await started(tmp_path, TOO_LATE)
    try:
        await until(lambda: not any(map(is_alive, children)), 10)
    finally:
        parent.kill()
        await parent.wait()


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
