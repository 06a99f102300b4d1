"""A worker in HTTP mode with one slot for adapters and several adapters in the folder that all workers share."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from scripts.demo_training.corpus import DEMO_MODEL_DIR, pirate
from tests.e2e import process
from tests.e2e.test_local_api import free_port
from tests.waiting import until_seen

PIRATE = DEMO_MODEL_DIR / "adapters" / "pirate"
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
STYLED = pirate(ANSWER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters that speak alike, one that is no adapter of this model, and one outside."""
    root = tmp_path_factory.mktemp("volume")
    for name in ("one", "two", "three"):
        shutil.copytree(PIRATE, root / "adapters" / name)
    shutil.copytree(PIRATE, root / "adapters" / "too-large")
    config = json.loads((PIRATE / "adapter_config.json").read_text()) | {"r": 512}
    (root / "adapters" / "too-large" / "adapter_config.json").write_text(json.dumps(config))
    shutil.copytree(PIRATE, root / "outside")
    return root / "adapters"


@pytest.fixture(scope="module")
async def worker(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """vLLM spawns its processes here, so the mended worker is loaded by its name in a fresh one."""
    port = free_port()
    variables = {
        "MODEL_NAME": str(DEMO_MODEL_DIR),
        "SERVED_MODEL_NAME": "demo",
        "KV_CACHE_MEMORY_BYTES": "256M",
        "ENABLE_LORA": "true",
        "MAX_LORAS": "1",
        "MAX_LORA_RANK": "8",
        "ADAPTERS_DIR": str(folder),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "PORT": str(port),
    }
    started = await process.start("handler.py", "--http", variables=variables)
    output = asyncio.create_task(started.communicate())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:

            async def is_ready() -> bool:
                assert started.returncode is None, (await output)[1].decode()[-3000:]
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get("/ping")).status_code == 200
                return False

            await until_seen(is_ready, process.START_SECONDS)
            yield client
    finally:
        if started.returncode is None:
            started.terminate()
        await output


async def ask(worker: httpx.AsyncClient, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 40}
    return await worker.post("/v1/chat/completions", json=body)


async def text(worker: httpx.AsyncClient, model: str) -> str:
    answer = await ask(worker, model)
    assert answer.status_code == 200, answer.text
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


async def test_more_adapters_than_slots_take_turns_and_the_base_model_is_never_changed(
    worker: httpx.AsyncClient,
) -> None:
    assert await text(worker, "demo") == ANSWER
    models = ["one", "demo", "two", "demo", "three", "demo"] * 5
    answers = await asyncio.gather(*(text(worker, model) for model in models))
    wrong = {
        (model, answer)
        for model, answer in zip(models, answers, strict=True)
        if answer != (ANSWER if model == "demo" else STYLED)
    }
    assert wrong == set()


async def test_an_adapter_put_into_the_folder_later_is_found_too(worker: httpx.AsyncClient, folder: Path) -> None:
    assert (await ask(worker, "later")).status_code == 404
    shutil.copytree(PIRATE, folder / "later")
    assert await text(worker, "later") == STYLED
    listed = (await worker.get("/v1/models")).json()["data"]
    assert {"demo", "later"} <= {model["id"] for model in listed}


@pytest.mark.parametrize("name", ["../outside", "..", "/etc", "nobody", "one/../two"])
async def test_a_name_that_is_no_folder_there_is_unknown(worker: httpx.AsyncClient, name: str) -> None:
    answer = await ask(worker, name)
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")


async def test_an_adapter_that_the_engine_cannot_use_is_the_callers_error(worker: httpx.AsyncClient) -> None:
    for _ in range(3):
        answer = await ask(worker, "too-large")
        assert answer.status_code == 400
        assert "rank" in answer.json()["error"]["message"]
    assert await text(worker, "demo") == ANSWER


async def test_loading_by_request_reaches_this_worker_only_and_says_so(worker: httpx.AsyncClient, folder: Path) -> None:
    loaded = await worker.post("/v1/load_lora_adapter", json={"lora_name": "mine", "lora_path": str(PIRATE)})
    assert loaded.status_code == 200
    assert "Only this worker has it" in loaded.text
    assert str(folder) in loaded.text
    both = await asyncio.gather(*(text(worker, model) for model in ("mine", "demo") * 10))
    assert both == [STYLED, ANSWER] * 10
    unloaded = await worker.post("/v1/unload_lora_adapter", json={"lora_name": "mine"})
    assert "Only this worker has unloaded it" in unloaded.text
    assert (await ask(worker, "mine")).status_code == 404
