"""The service as a process: what SIGTERM lets end, what SIGHUP changes, and what is in the ledger afterwards."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.vllm_service.gateway.asking import answers
from tests.waiting import until
from vllm_service.domain.requests import Outcome
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.open import open_database
from vllm_service.testing import DONE, Pause, Reply, ScriptedProvider, Signal, chat, chat_stream

STREAM = {"model": "small", "stream": True}


@dataclass
class Served:
    process: asyncio.subprocess.Process
    url: str
    catalog: Path
    data_dir: Path

    async def outcomes(self) -> list[Outcome]:
        database = await open_database(None, self.data_dir)
        try:
            return [record.outcome async for _, record in LedgerReader(database).records()]
        finally:
            await database.close()


@asynccontextmanager
async def served(directory: Path, *urls: str) -> AsyncIterator[Served]:
    catalog = directory / "catalog.json"
    catalog.write_text(json.dumps(urls))
    module = ("-m", "tests.vllm_service.gateway.process")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *module, str(catalog), str(directory / "data"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Served(process, (await process.stdout.readline()).decode().strip(), catalog, directory / "data")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_sigterm_lets_a_stream_end_and_loses_no_row(tmp_path: Path) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()
    head, first, *rest = chat_stream("Hel", "lo").actions
    reply = Reply((head, first, Signal(has_begun), Pause(may_end), *rest))
    async with ScriptedProvider(reply) as upstream, served(tmp_path, upstream.url) as service:
        async with httpx.AsyncClient(timeout=20) as http:
            call = asyncio.ensure_future(http.post(f"{service.url}/chat/completions", json=STREAM))
            await has_begun.wait()
            service.process.send_signal(signal.SIGTERM)
            while await _is_listening(service.url):
                pass
            may_end.set()
            assert (await call).content.endswith(DONE)
        assert await service.process.wait() == 0
        assert await service.outcomes() == [Outcome.COMPLETED]


async def test_sighup_under_load_drops_nothing_and_takes_effect(tmp_path: Path) -> None:
    async with (
        ScriptedProvider(answers) as old,
        ScriptedProvider(chat("new")) as new,
        served(tmp_path, old.url) as service,
    ):
        is_over = asyncio.Event()
        texts: list[str] = []

        async def caller() -> None:
            async with httpx.AsyncClient(timeout=20) as http:
                while not is_over.is_set():
                    response = await http.post(f"{service.url}/chat/completions", json={"model": "small"})
                    response.raise_for_status()
                    texts.append(response.json()["choices"][0]["message"]["content"])

        async def until_said(text: str, times: int) -> None:
            before = texts.count(text)
            await until(lambda: texts.count(text) >= before + times)

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        for _ in range(5):
            await until_said("Hello there", 20)
            service.catalog.write_text(json.dumps([new.url]))
            service.process.send_signal(signal.SIGHUP)
            await until_said("new", 20)
            service.catalog.write_text("not a configuration")
            service.process.send_signal(signal.SIGHUP)
            await until_said("new", 20)
            service.catalog.write_text(json.dumps([old.url]))
            service.process.send_signal(signal.SIGHUP)
        is_over.set()
        await asyncio.gather(*callers)
        service.process.send_signal(signal.SIGTERM)
        assert await service.process.wait() == 0
        assert await service.outcomes() == [Outcome.COMPLETED] * len(texts)


async def test_the_other_routes_are_served_by_the_same_process(tmp_path: Path) -> None:
    async with served(tmp_path, "http://127.0.0.1:9/v1") as service, httpx.AsyncClient(timeout=20) as http:
        assert [model["id"] for model in (await http.get(f"{service.url}/models")).json()["data"]] == ["small"]
        assert (await http.get(f"{service.url}/health/live")).status_code == 200
        assert b"vllm_requests_total" in (await http.get(f"{service.url}/metrics")).content
        unknown = await http.get(f"{service.url}/nothing", headers={"x-request-id": "mine"})
        assert (unknown.status_code, unknown.headers["x-request-id"]) == (404, "mine")
        assert unknown.json()["error"]["code"] == "NOT_FOUND_404"


async def _is_listening(url: str) -> bool:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True
