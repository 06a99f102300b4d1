"""The shipped scripted provider: what a script says is what comes over the socket."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from vllm_service import testing
from vllm_service.testing import (
    CLOSES,
    DONE,
    HANGS,
    RESETS,
    Close,
    Pause,
    ReceivedRequest,
    Reply,
    Reset,
    Script,
    ScriptedProvider,
    Signal,
    begun,
    chat,
    chat_chunk,
    chat_stream,
    events,
    in_turn,
    refused,
    says,
    whole,
)

ASKED = b"POST /v1/x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


async def raw(provider: ScriptedProvider, asked: bytes = ASKED) -> bytes:
    """All bytes until the provider ends the connection; b"RESET" where it breaks it."""
    host, port = provider.url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(asked)
    received = b""
    try:
        while data := await reader.read(65536):
            received += data
    except ConnectionResetError:
        received += b"RESET"
    finally:
        writer.close()
    return received


def sdk(provider: ScriptedProvider) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=provider.url, api_key="any", max_retries=0)


async def test_the_official_client_reads_whole_chats_and_streams() -> None:
    async with ScriptedProvider(says("Hel", "lo")) as provider, sdk(provider) as client:
        answer = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert answer.choices[0].message.content == "Hello"
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
    assert chunks[-1].usage is not None
    assert [request.last_text for request in provider.requests] == ["Hi", "Hi"]
    assert [request.is_stream for request in provider.requests] == [False, True]
    assert provider.requests[0].headers["authorization"] == "Bearer any"


async def test_replies_come_in_turn_and_the_last_one_stays() -> None:
    script = in_turn(refused(429, retry_after="7"), chat("a"))
    async with ScriptedProvider(script) as provider, httpx.AsyncClient() as client:
        answers = [await client.post(f"{provider.url}/chat/completions", json={}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 200, 200]
    assert answers[0].headers["retry-after"] == "7"
    assert provider.connections == 1, "a connection carries one request after the other"


@pytest.mark.parametrize("position", [0, 1, 20, chat("x").head_size, chat("x").size - 1])
async def test_a_reply_is_cut_at_the_byte(position: int) -> None:
    uncut = b"".join(action for action in chat("x").actions if isinstance(action, bytes))
    async with ScriptedProvider(chat("x").cut_at(position)) as provider:
        assert await raw(provider) == uncut[:position]


@pytest.mark.parametrize("reply", [RESETS, chat("x").cut_at(20, Pause(0.01), Reset())])
async def test_a_reset_breaks_the_connection(reply: Reply) -> None:
    async with ScriptedProvider(reply) as provider:
        assert (await raw(provider)).endswith(b"RESET")


async def test_a_connection_may_end_without_an_answer() -> None:
    async with ScriptedProvider(CLOSES) as provider:
        assert await raw(provider) == b""


async def test_events_are_written_one_by_one_and_wait_for_what_the_script_waits_for() -> None:
    may_go_on = asyncio.Event()
    reply = events(chat_chunk("a"), DONE)
    head, first, *rest = reply.actions
    waits = Reply((head, first, Pause(may_go_on), *rest))
    async with (
        ScriptedProvider(waits) as provider,
        httpx.AsyncClient() as client,
        client.stream("POST", f"{provider.url}/x", json={}) as response,
    ):
        pieces = response.aiter_bytes()
        assert b'"a"' in await anext(pieces)
        may_go_on.set()
        assert b"".join([piece async for piece in pieces]) == DONE


async def test_pieces_are_as_small_as_they_are_told_to_be() -> None:
    reply = chat("x").in_pieces(5)
    assert max(len(action) for action in reply.actions if isinstance(action, bytes)) == 5
    assert reply.size == chat("x").size
    async with ScriptedProvider(reply.then(Close())) as provider:
        assert (await raw(provider)).endswith(b"}")


async def test_a_caller_who_leaves_a_silent_provider_is_noticed() -> None:
    async with ScriptedProvider(HANGS) as provider:
        asking = asyncio.create_task(raw(provider))
        await asyncio.wait_for(provider.is_silent.wait(), 10)
        assert not provider.was_left.is_set()
        asking.cancel()
        await asyncio.wait_for(provider.was_left.wait(), 10)


async def test_requests_can_be_waited_for() -> None:
    async with ScriptedProvider(HANGS) as provider:
        asking = [asyncio.create_task(raw(provider)) for _ in range(3)]
        await asyncio.wait_for(provider.until_requests(3), 10)
        for task in asking:
            task.cancel()


async def test_a_script_may_wait_before_it_answers() -> None:
    may_answer = asyncio.Event()

    async def script(request: ReceivedRequest) -> Reply:
        await may_answer.wait()
        return chat(request.json["text"])

    async with ScriptedProvider(script) as provider, httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.post(f"{provider.url}/x", json={"text": "late"}))
        await asyncio.wait_for(provider.until_requests(1), 10)
        assert not asking.done()
        may_answer.set()
        assert "late" in (await asking).text


async def test_a_script_that_is_left_while_it_waits_is_ended() -> None:
    was_ended = asyncio.Event()

    async def script(_: ReceivedRequest) -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            was_ended.set()
        return CLOSES

    async with ScriptedProvider(script) as provider:
        asking = asyncio.create_task(raw(provider))
        await asyncio.wait_for(provider.until_requests(1), 10)
        asking.cancel()
        await asyncio.wait_for(was_ended.wait(), 10)
        assert provider.was_left.is_set()


async def test_a_script_that_fails_fails_the_test_and_not_only_its_caller() -> None:
    def script(_: ReceivedRequest) -> Reply:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with ScriptedProvider(script) as provider:
            assert await raw(provider) == b"RESET"


async def test_a_signal_is_given_when_what_stands_before_it_has_been_written() -> None:
    has_begun = asyncio.Event()
    head, first, *_ = events(chat_chunk("a")).actions
    async with ScriptedProvider(Reply((head, first, Signal(has_begun), Pause(None)))) as provider:
        asking = asyncio.create_task(raw(provider))
        await asyncio.wait_for(has_begun.wait(), 10)
        asking.cancel()


async def test_a_stream_that_has_begun_ends_only_when_it_is_told_to() -> None:
    whole_stream = b"".join(action for action in events(chat_chunk("a")).actions if isinstance(action, bytes))
    async with ScriptedProvider(begun(chat_chunk("a")).then(Close())) as provider:
        received = await raw(provider)
    assert received + b"0\r\n\r\n" == whole_stream


async def test_the_official_client_reads_text_completions_and_their_streams() -> None:
    async with ScriptedProvider(says("Hel", "lo"), path="/v2/ep/openai/v1") as provider, sdk(provider) as client:
        answer = await client.completions.create(model="m", prompt="Hi")
        stream = await client.completions.create(model="m", prompt="Hi", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]
    assert (answer.choices[0].text, "".join(texts)) == ("Hello", "Hello")
    assert {request.target for request in provider.requests} == {"/v2/ep/openai/v1/completions"}


@pytest.mark.parametrize(
    ("script", "status", "content_type"),
    [
        (whole(b"<html>", content_type="text/html"), 200, "text/html"),
        (chat_stream("a"), 200, "text/event-stream"),
        (events(chat_chunk("a"), content_type="application/json"), 200, "application/json"),
        (whole({}, 302, {"location": "/v1/elsewhere"}), 302, "application/json"),
    ],
)
async def test_status_and_type_are_the_scripts(script: Reply | Script, status: int, content_type: str) -> None:
    async with ScriptedProvider(script) as provider, httpx.AsyncClient() as client:
        answer = await client.post(f"{provider.url}/x", json={})
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)


def test_it_needs_nothing_but_the_standard_library() -> None:
    sources = [path.read_text() for path in Path(testing.__path__[0]).glob("*.py")]
    imported = {
        name.split(".")[0]
        for source in sources
        for node in ast.walk(ast.parse(source))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    assert imported <= {
        "__future__", "asyncio", "collections", "dataclasses", "functools", "http", "json", "socket", "struct",
        "types", "typing", "vllm_service",
    }  # fmt: skip
