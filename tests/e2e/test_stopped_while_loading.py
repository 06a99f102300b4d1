"""A worker that is told to stop before its engine is ready exits with 0, and leaves no process behind."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import psutil
import pytest

from scripts.demo_training.corpus import DEMO_MODEL_DIR
from tests.e2e import process
from tests.e2e.test_local_api import free_port
from tests.handler.model_cache.hub_server import HubServer, files_below
from tests.waiting import until

QUEUE = {
    "RUNPOD_WEBHOOK_GET_JOB": "http://127.0.0.1:1/job-take/$ID?x=1",
    "RUNPOD_WEBHOOK_PING": "http://127.0.0.1:1/ping/$RUNPOD_POD_ID?x=1",
    "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
    "RUNPOD_AI_API_KEY": "x",
    "RUNPOD_POD_ID": "worker-1",
}
DEMO = {"MODEL_NAME": str(DEMO_MODEL_DIR), "KV_CACHE_MEMORY_BYTES": "256M"}


@pytest.mark.parametrize(
    ("mode", "phase"),
    [
        (QUEUE | DEMO, "importing vLLM ..."),
        (QUEUE | DEMO, "starting the engine ..."),
        (QUEUE | {"VLLM_BASE_URL": "http://127.0.0.1:1"}, "waiting for the server"),
        ({"RUNPOD_ENDPOINT_ID": "ep"} | DEMO, "starting the engine ..."),
    ],
    ids=["queue-import", "queue-load", "queue-remote", "http-load"],
)
async def test_sigterm_while_loading(mode: dict[str, str], phase: str) -> None:
    variables = mode if "RUNPOD_WEBHOOK_GET_JOB" in mode else mode | {"PORT": str(free_port())}
    worker = await process.start("handler.py", variables=variables)
    assert worker.stderr is not None
    try:
        async with asyncio.timeout(process.START_SECONDS):
            seen = b""
            while phase.encode() not in seen:
                line = await worker.stderr.readline()
                assert line, f"ended early:\n{seen.decode()}"
                seen += line
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGTERM)
        ending = asyncio.create_task(worker.communicate())
        await asyncio.wait({ending}, timeout=60)
    finally:
        if worker.returncode is None:
            worker.kill()
    _, log = await asyncio.wait_for(ending, 5)
    assert worker.returncode == 0, log.decode()[-3000:]
    # vLLM itself complains in a __del__ when the interpreter ends: only a traceback through our code counts.
    assert not any(b"/handler/" in part for part in log.split(b"Traceback")[1:]), log.decode()[-3000:]
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []


@pytest.mark.parametrize(
    ("arguments", "number", "code"),
    [(["--http"], signal.SIGTERM, 0), (["--rp_serve_api", "--rp_api_port"], signal.SIGINT, 0)],
    ids=["http", "development"],
)
async def test_a_worker_that_downloads_its_model_is_stopped_in_time(
    tmp_path: Path, arguments: list[str], number: signal.Signals, code: int
) -> None:
    hub, port = HubServer(bytes_per_second=1000.0), free_port()
    hub.add("org/demo", files_below(DEMO_MODEL_DIR))
    with hub.running():
        variables = {
            "MODEL_NAME": "org/demo",
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "MODEL_CACHE_DIR": str(tmp_path),
            "PORT": str(port),
        }
        numbered = [*arguments, str(port)] if arguments[-1] == "--rp_api_port" else arguments
        worker = await process.start("handler.py", *numbered, variables=variables)
        ending = asyncio.create_task(worker.communicate())
        try:
            await until(lambda: any("safetensors" in path for _, path in list(hub.asked)), process.START_SECONDS)
            began_at = time.monotonic()
            worker.send_signal(number)
            await asyncio.wait({ending}, timeout=60)
        finally:
            if worker.returncode is None:
                worker.kill()
        _, log = await asyncio.wait_for(ending, 5)
    assert time.monotonic() - began_at < 15, log.decode()[-3000:]
    assert worker.returncode == code, log.decode()[-3000:]
