"""The OpenAI route: a call is a job, its output the answer; streams, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from runpod_emulator import Emulator
from tests.runpod_emulator.played_worker import CHAT, PlayedWorker, alongside
from tests.waiting import until


async def test_an_openai_call_is_a_job_and_its_output_the_answer(
    openai_client: openai.AsyncOpenAI, worker: PlayedWorker
) -> None:
    document = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
    job, answer = await alongside(worker.answer(output=[document]), openai_client.chat.completions.create(**CHAT))
    assert job["input"] == {"openai_route": "/v1/chat/completions", "openai_input": CHAT}
    assert answer.id == "c"


async def test_a_get_on_the_openai_route_keeps_its_query(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    job, answer = await alongside(worker.answer(output={"data": []}), client.get("/openai/v1/models?limit=2"))
    assert job["input"] == {"openai_route": "/v1/models?limit=2", "openai_input": {}}
    assert answer.json() == {"data": []}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": {"message": "no such model"}, "status": 404}, openai.NotFoundError),
        ({"error": {"message": "wrong"}, "status": 400}, openai.BadRequestError),
        ("a traceback", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_job_raises_the_right_exception(
    openai_client: openai.AsyncOpenAI, worker: PlayedWorker, error: Any, kind: type[openai.APIStatusError], stream: bool
) -> None:
    text = error if isinstance(error, str) else json.dumps(error)
    answering = asyncio.create_task(worker.answer(error=text))
    with pytest.raises(kind) as raised:
        await openai_client.chat.completions.create(**CHAT, stream=stream)
    await answering
    assert (error if isinstance(error, str) else error["error"]["message"]) in str(raised.value)


async def test_a_stream_passes_each_chunk_on_as_it_comes(client: httpx.AsyncClient, worker: PlayedWorker) -> None:
    async def work() -> None:
        job = await worker.take()
        assert job
        for number in range(3):
            await worker.post("stream", job["id"], {"output": f"data: {number} 😀\n\n"})
            await seen[number].wait()
        await worker.post("done", job["id"], {"output": []})

    seen = [asyncio.Event() for _ in range(3)]
    working = asyncio.create_task(work())
    async with client.stream("POST", "/openai/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        number = 0
        async for text in response.aiter_text():
            assert text == f"data: {number} 😀\n\n"
            seen[number].set()
            number += 1
    await working
    assert number == 3


async def test_a_stream_that_breaks_ends_in_an_error_and_without_done(
    emulator: Emulator, client: httpx.AsyncClient, worker: PlayedWorker
) -> None:
    async def break_off() -> None:
        job = await worker.take()
        assert job
        await worker.post("stream", job["id"], {"output": "data: 1\n\n"})
        await until(lambda: emulator.endpoint.store.get(job["id"]).chunks_read == 1)
        emulator.end_worker("w1", 137)

    breaking = asyncio.create_task(break_off())
    answer = await client.post("/openai/v1/chat/completions", json=CHAT | {"stream": True})
    await breaking
    first, last = answer.text.strip().split("\n\n")
    assert first == "data: 1"
    assert "exit code 137" in json.loads(last.removeprefix("data:"))["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_job(
    emulator: Emulator, openai_client: openai.AsyncOpenAI, worker: PlayedWorker, stream: bool
) -> None:
    call = asyncio.ensure_future(openai_client.chat.completions.create(**CHAT, stream=stream))
    job = await worker.take()
    assert job
    call.cancel()
    await until(lambda: emulator.endpoint.store.get(job["id"]).status == "CANCELLED")
    assert (await worker.client.get("/job-stop/w1?gpu=x")).json() == {"jobsToStop": [job["id"]]}
