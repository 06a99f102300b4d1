"""HTTP mode with real vLLM, as a load-balancing endpoint runs it: loading, ready, OpenAI's own client, drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError

from scripts.demo_training.corpus import DEMO_MODEL_DIR
from tests.e2e import process
from tests.e2e.test_local_api import free_port
from tests.waiting import until_seen


@dataclass
class Served:
    """A worker in HTTP mode; `pings` are the states it went through while it started."""

    url: str
    worker: asyncio.subprocess.Process
    pings: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[Served]:
    port, health_port = free_port(), free_port()
    variables = {
        "MODEL_NAME": str(DEMO_MODEL_DIR),
        "SERVED_MODEL_NAME": "demo",
        "GRACE_SECONDS": "60",  # a busy machine may take longer than the default
        "KV_CACHE_MEMORY_BYTES": "256M",
        "RUNPOD_ENDPOINT_ID": "ep",
        "PORT": str(port),
        "PORT_HEALTH": str(health_port),
    }
    worker = await process.start("handler.py", variables=variables)
    output = asyncio.create_task(worker.communicate())
    served = Served(f"http://127.0.0.1:{port}", worker)
    try:
        async with httpx.AsyncClient() as client:

            async def is_ready() -> bool:
                assert worker.returncode is None, (await output)[1].decode()[-3000:]
                with contextlib.suppress(httpx.TransportError):
                    served.pings.append((await client.get(f"http://127.0.0.1:{health_port}/ping")).status_code)
                return 200 in served.pings

            await until_seen(is_ready, process.START_SECONDS)
        yield served
    finally:
        if worker.returncode is None:
            worker.kill()
        await output


async def test_the_worker_says_that_it_loads_before_it_says_that_it_is_ready(served: Served) -> None:
    assert served.pings[0] == 204
    assert served.pings[-1] == 200
    assert len(served.pings) > 5, "the ping must be answered while the model loads"


async def test_openais_client_works_unchanged(served: Served) -> None:
    question: Any = {"role": "user", "content": "What is the capital of France?"}
    async with AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        chat = await client.chat.completions.create(model="demo", messages=[question], temperature=0)
        assert chat.choices[0].message.content == "The capital of France is Paris."
        stream: Any = await client.chat.completions.create(
            model="demo", messages=[question], temperature=0, stream=True
        )
        said = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(said) == "The capital of France is Paris."
        with pytest.raises(NotFoundError):
            await client.chat.completions.create(model="nobody", messages=[question])


async def test_paths_outside_the_allow_list_are_not_there(served: Served) -> None:
    """Over a socket: clients resolve dots before they send them."""
    for target in ("/metrics", "/docs", "/openapi.json", "/v1/../metrics", "/v1/%2e%2e/metrics"):
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(served.url).port)
        writer.write(f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 404 "), target
        writer.close()
        await writer.wait_closed()


async def test_sigterm_lets_a_running_stream_finish_and_then_the_worker_exits_0(served: Served) -> None:
    body = {"model": "demo", "prompt": "Hello!", "max_tokens": 200, "ignore_eos": True, "stream": True}
    client = httpx.AsyncClient(base_url=served.url, timeout=60)
    async with client, client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.aiter_lines()
        first = await anext(lines)
        served.worker.send_signal(signal.SIGTERM)
        rest = [line async for line in lines]
    assert first.startswith("data:")
    assert "data: [DONE]" in rest
    async with asyncio.timeout(30):
        assert await served.worker.wait() == 0
