"""`python handler.py --rp_serve_api` with real vLLM: a job over HTTP, and a failed one reported as failed."""

from __future__ import annotations

import asyncio
import json
import signal
import socket

import httpx

from tests.e2e import process
from tests.waiting import until_seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_it_answers(api: httpx.AsyncClient, worker: asyncio.subprocess.Process) -> None:
    async def answers() -> bool:
        assert worker.returncode is None, "the worker ended before it answered"
        try:
            await api.get("/status/x")
        except httpx.TransportError:
            return False
        return True

    await until_seen(answers, process.START_SECONDS)


async def test_the_development_api_serves_jobs_and_stops_cleanly() -> None:
    port = free_port()
    arguments = ("handler.py", "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    worker = await process.start(*arguments, variables={})
    output = asyncio.create_task(worker.communicate())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as api:
            await until_it_answers(api, worker)
            job = {"prompt": "What is the capital of Japan?", "sampling_params": {"temperature": 0}}
            good = (await api.post("/runsync", json={"input": job})).json()
            bad = (await api.post("/runsync", json={"input": job | {"lora_adapter": "nobody"}})).json()
        assert good["status"] == "COMPLETED"
        assert good["output"]["choices"][0]["text"].strip() == "The capital of Japan is Tokyo."
        assert bad["status"] == "FAILED"
        assert json.loads(bad["error"])["status"] == 404
        worker.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await output
    finally:
        if worker.returncode is None:
            worker.kill()
    assert worker.returncode == 0
