"""The shipped scripted provider: what a script says is what comes over the socket."""

from __future__ import annotations

import ast
import asyncio
import inspect

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
    Reply,
    Reset,
    Script,
    ScriptedProvider,
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
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(inspect.getsource(testing)))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        + ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
    }
    assert imported <= {
        "__future__", "asyncio", "collections", "dataclasses", "functools", "http", "json", "socket", "struct",
        "types", "typing",
    }  # fmt: skip
