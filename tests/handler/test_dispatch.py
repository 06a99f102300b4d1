"""From a job's input to its outputs, with a fake engine where the engine must misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from handler.dispatch import Dispatcher
from handler.engine.protocol import EngineRequest
from handler.errors import EngineError, InvalidInput, StreamBroken, WorkerError
from handler.outputs import StreamPiece
from handler.settings import WorkerSettings
from tests.support import FakeEngine, Worker

CHAT = {"openai_route": "/v1/chat/completions", "openai_input": {"messages": []}}


def worker(engine: FakeEngine) -> Worker:
    return Worker(Dispatcher(engine, WorkerSettings(environment={})))


async def test_a_json_answer_is_one_document() -> None:
    engine = FakeEngine(pieces=[b'{"a": ', b"1}"])
    assert await worker(engine).result(CHAT) == {"a": 1}
    assert engine.requests[0].path == "/v1/chat/completions"


async def test_text_is_a_string_and_other_bytes_are_base64_with_their_type() -> None:
    assert await worker(FakeEngine(pieces=[b""], content_type="")).result({"route": "/health"}) == ""
    binary = FakeEngine(pieces=[b"\xff\xfe"], content_type="application/octet-stream")
    assert await worker(binary).result({"route": "/v1/x"}) == {
        "content_type": "application/octet-stream",
        "base64": "//4=",
    }


async def test_a_stream_yields_whole_events_although_its_bytes_are_cut_inside_an_emoji() -> None:
    text = 'data: {"text": "🙂"}\n\ndata: [DONE]\n\n'
    cut = text.encode().index("🙂".encode()) + 2
    engine = FakeEngine(
        pieces=[text.encode()[:cut], text.encode()[cut:]], content_type="text/event-stream; charset=utf-8"
    )
    outputs = await worker(engine).outputs(CHAT)
    assert "".join(outputs) == text
    assert all(output.endswith("\n\n") for output in outputs)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b'{"error": {"message": "no such model", "type": "NotFoundError", "code": 404, "param": "model"}}',
            "no such model",
        ),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"[1]", "[1]"),
        (b"\xff boom", "\ufffd boom"),
        (b"", "Not Found"),
    ],
)
async def test_an_error_answer_keeps_its_status_and_always_has_the_four_fields(body: bytes, message: str) -> None:
    with pytest.raises(EngineError) as caught:
        await worker(FakeEngine(pieces=[body], status=404)).result(CHAT)
    document = json.loads(caught.value.to_json_text())
    assert document["status"] == 404
    assert document["error"]["message"] == message
    assert set(document["error"]) >= {"message", "type", "code", "param"}


@pytest.mark.parametrize("status", [101, 102, 199, 300, 301, 302, 303, 304, 307, 308, 399])
@pytest.mark.parametrize("content_type", ["", "text/html", "application/json", "text/event-stream"])
async def test_what_is_not_2xx_is_an_error_with_its_status_and_never_an_answer(status: int, content_type: str) -> None:
    body = b"data: [DONE]\n\n" if content_type == "text/event-stream" else b""
    with pytest.raises(EngineError, match=f"HTTP {status}") as caught:
        await worker(FakeEngine(pieces=[body], status=status, content_type=content_type)).outputs(CHAT)
    assert (caught.value.status, caught.value.retryable) == (status, False)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_every_2xx_is_an_answer(status: int) -> None:
    assert await worker(FakeEngine(status=status)).result(CHAT) == {}


async def test_an_error_in_a_stream_is_sent_as_an_event_first_and_then_fails_the_job() -> None:
    pieces = [b'data: 1\n\ndata: {"error": {"message": "boom", "code": 500}}\n\n', b"data: [DONE]\n\n"]
    engine = FakeEngine(pieces=pieces, content_type="text/event-stream")
    outputs: list[str] = []

    async def run() -> None:
        dispatcher = Dispatcher(engine, WorkerSettings(environment={}))
        async for output in dispatcher.outputs(dispatcher.parse(CHAT)):
            outputs.append(output.value)

    with pytest.raises(EngineError, match="boom"):
        await run()
    assert "boom" in "".join(outputs)
    assert "[DONE]" not in "".join(outputs)


async def test_a_stream_cut_short_fails_the_job() -> None:
    with pytest.raises(StreamBroken):
        await worker(FakeEngine(pieces=[b"data: 1\n\ndata"], content_type="text/event-stream")).outputs(CHAT)


async def test_closing_the_outputs_early_leaves_the_request_in_the_engine_early() -> None:
    async def endless(request: EngineRequest) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await asyncio.Event().wait()

    engine = FakeEngine(answer=endless, content_type="text/event-stream")
    dispatcher = Dispatcher(engine, WorkerSettings(environment={}))
    outputs = dispatcher.outputs(dispatcher.parse(CHAT))
    assert await anext(outputs) == StreamPiece("data: 1\n\n")
    await outputs.aclose()
    assert engine.left_early == 1


async def test_a_fault_of_ours_names_its_type_and_not_its_message_which_may_quote_the_prompt() -> None:
    async def broken(request: EngineRequest) -> AsyncIterator[bytes]:
        if request.path:
            raise KeyError("SECRET-PROMPT")
        yield b""

    with pytest.raises(WorkerError) as caught:
        await worker(FakeEngine(answer=broken)).result(CHAT)
    assert caught.value.status == 500
    assert "KeyError" in caught.value.message
    assert "SECRET-PROMPT" not in caught.value.to_json_text()


async def test_a_wrong_input_never_reaches_the_engine() -> None:
    engine = FakeEngine()
    with pytest.raises(InvalidInput):
        await worker(engine).result({"route": "/metrics"})
    assert engine.requests == []


async def test_allowed_paths_are_the_settings_own() -> None:
    settings = WorkerSettings.from_environment({"ALLOWED_PATHS": "/metrics"})
    assert await Worker(Dispatcher(FakeEngine(), settings)).result({"route": "/metrics"}) == {}
