"""A worker that is killed leaves nothing behind, in whatever mode it runs: no engine, and no port that is taken."""

from __future__ import annotations

import asyncio
import signal
import socket

import psutil
import pytest

from scripts.demo_training.corpus import DEMO_MODEL_DIR
from tests.e2e import process
from tests.e2e.test_local_api import free_port
from tests.e2e.test_stopped_while_loading import QUEUE
from tests.handler.start.test_children import is_alive
from tests.waiting import until

DEMO = {"MODEL_NAME": str(DEMO_MODEL_DIR), "KV_CACHE_MEMORY_BYTES": "256M"}
SPAWN = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
READY = b"ready after"


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["handler.py", "--http"], DEMO),
        (["-m", "handler", "--http"], DEMO | SPAWN),
        (["handler.py", "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port"], DEMO),
        (["handler.py"], QUEUE | DEMO),
    ],
    ids=["http", "http-spawned", "development", "queue"],
)
async def test_a_killed_worker_leaves_no_process_and_no_port(arguments: list[str], variables: dict[str, str]) -> None:
    port = free_port()
    numbered = [*arguments, str(port)] if arguments[-1:] == ["--rp_api_port"] else arguments
    worker = await process.start(*numbered, variables=variables | {"PORT": str(port)})
    children: list[psutil.Process] = []
    assert worker.stderr is not None
    try:
        async with asyncio.timeout(process.START_SECONDS):
            seen = b""
            while READY not in seen:
                line = await worker.stderr.readline()
                assert line, f"ended early:\n{seen.decode()}"
                seen += line
        await until(lambda: psutil.Process(worker.pid).children(recursive=True))
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
        await until(lambda: not any(map(is_alive, children)), 10)
        await until(lambda: is_free(port), 10)
    finally:
        for child in [child for child in children if is_alive(child)]:
            child.kill()
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
