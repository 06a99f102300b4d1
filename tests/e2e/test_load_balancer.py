"""Our worker with real vLLM behind the emulated load balancer: OpenAI's client, its own worker again, a drain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError

from runpod_emulator import Emulator, EndpointSettings, WorkerCommand
from runpod_emulator.endpoint.registry import READY
from scripts.demo_training.corpus import DEMO_MODEL_DIR
from tests.e2e.process import ROOT, START_SECONDS
from tests.waiting import until

SETTINGS = EndpointSettings(
    endpoint_id="ep", api_key="key", type="load_balancer", scaling="request_count", min_workers=1, max_workers=1
)
VARIABLES = {"MODEL_NAME": str(DEMO_MODEL_DIR), "SERVED_MODEL_NAME": "demo", "KV_CACHE_MEMORY_BYTES": "256M"}
QUESTION: Any = {"role": "user", "content": "What is the capital of France?"}
ANSWER = "The capital of France is Paris."


async def test_our_worker_serves_openais_client_behind_the_load_balancer(tmp_path: Path) -> None:
    command = WorkerCommand(
        (sys.executable, "handler.py"), variables=VARIABLES, directory=ROOT, log_directory=tmp_path / "logs"
    )
    async with Emulator(SETTINGS, command) as emulator:

        def is_ready() -> bool:
            for worker in emulator.workers.values():
                log = tmp_path / "logs" / f"{worker.id}.log"
                assert worker.exit_code is None, log.read_text(errors="replace")[-4000:]
            return any(worker.state in READY for worker in emulator.workers.values())

        await until(is_ready, START_SECONDS)
        (worker_id,) = emulator.workers
        async with AsyncOpenAI(base_url=f"{emulator.balanced_url}/v1", api_key="key", max_retries=0) as client:
            raw = await client.chat.completions.with_raw_response.create(
                model="demo", messages=[QUESTION], temperature=0
            )
            assert raw.headers["X-Runpod-Worker-Id"] == worker_id
            assert raw.parse().choices[0].message.content == ANSWER
            stream: Any = await client.chat.completions.create(
                model="demo",
                messages=[QUESTION],
                temperature=0,
                stream=True,
                extra_headers={"X-Runpod-Worker-Id": f"strict {worker_id}"},
            )
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == ANSWER
            with pytest.raises(NotFoundError):
                await client.chat.completions.create(model="nobody", messages=[QUESTION])
        assert emulator.endpoint.requests.completed == 3
    assert [line.exit_code for line in emulator.bill().lines] == [0], "it drains"
