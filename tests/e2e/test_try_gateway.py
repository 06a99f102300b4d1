"""`make serve`: emulator, worker, hosted provider and gateway come up together, answer, and go down together."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import httpx

from tests.e2e.process import START_SECONDS, start
from tests.e2e.test_openai_python_client import FRANCE, PARIS


async def test_one_command_brings_a_gateway_that_answers_and_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    process = await start("-m", "scripts.try_gateway", "--port", str(port), "--directory", str(tmp_path), variables={})
    assert process.stdout is not None
    said = b""
    async with asyncio.timeout(START_SECONDS):
        while f"curl {address}".encode() not in said:
            piece = await process.stdout.read(4096)
            assert piece, said.decode()
            said += piece
    async with httpx.AsyncClient(trust_env=False, base_url=address, timeout=60) as client:
        for model in ("demo-model", "demo-hosted"):
            body = {"model": model, "messages": [{"role": "user", "content": FRANCE}], "temperature": 0}
            answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
            assert (answer["choices"][0]["message"]["content"] == PARIS) is (model == "demo-model")
        assert "Try the gateway" in (await client.get("/")).text
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(START_SECONDS):
        rest, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert b"stopped" in rest
