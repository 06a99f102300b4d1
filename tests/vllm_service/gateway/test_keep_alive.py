"""Silent streams: the head and comments come in time, and failing over stays possible until the first content."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import httpx
import openai
import pytest

from tests.vllm_service.gateway.asking import HEADERS, MESSAGES
from tests.vllm_service.gateway.running import Running, catalog_of, gateway_to, running
from tests.waiting import until
from vllm_service.domain.requests import Outcome
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.keep_alive import COMMENT, KeepAlive
from vllm_service.testing import (
    Close,
    Pause,
    Reply,
    ScriptedProvider,
    begun,
    chat,
    chat_chunk,
    chat_stream,
    events,
    refused,
    says,
)

#: A stream is silent for so long at most, in these tests.
SECONDS = 0.1


class Reading:
    """A caller of a stream, and what has come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.received = b""
        self._pieces = response.aiter_raw()

    async def until(self, wanted: bytes) -> bytes:
        """Reads until so much has come, and returns all of it."""
        while wanted not in self.received:
            self.received += await anext(self._pieces)
        return self.received

    async def to_the_end(self) -> bytes:
        async for piece in self._pieces:
            self.received += piece
        return self.received


@asynccontextmanager
async def reading(gateway: Running) -> AsyncIterator[Reading]:
    body = {"model": "small", "stream": True, "messages": MESSAGES}
    async with gateway.http.stream("POST", f"{gateway.url}/chat/completions", json=body, headers=HEADERS) as response:
        yield Reading(response)


async def test_the_head_and_comments_come_while_a_provider_is_silent_and_another_one_may_still_answer() -> None:
    fails = asyncio.Event()
    first = ScriptedProvider(refused(500).after(fails))
    second = ScriptedProvider(says("sound"))
    async with (
        first, second,
        running(catalog_of(first.url, second.url), keep_alive=KeepAlive(SECONDS)) as gateway,
        asyncio.timeout(20),
        reading(gateway) as caller,
    ):  # fmt: skip
        assert caller.response.headers["content-type"].startswith("text/event-stream")
        assert caller.response.headers["x-request-id"]
        assert "x-provider" not in caller.response.headers
        assert await caller.until(COMMENT * 2) == COMMENT * 2
        fails.set()
        text = await caller.to_the_end()
        row = await gateway.books.row()
    assert text.removeprefix(COMMENT * 2).replace(COMMENT, b"").startswith(b"data: {")
    assert text.count(b"sound") == 1
    assert text.endswith(b"data: [DONE]\n\n")
    assert (row.outcome, row.status, row.provider, row.attempts) == (Outcome.COMPLETED, 200, "provider-2", 2)


async def test_an_error_behind_the_head_is_an_event_without_done_and_its_row_has_its_status() -> None:
    fails = asyncio.Event()
    async with (
        gateway_to(ScriptedProvider(refused(404).after(fails)), keep_alive=KeepAlive(SECONDS)) as gateway,
        asyncio.timeout(20),
        reading(gateway) as caller,
    ):
        await caller.until(COMMENT)
        fails.set()
        text = (await caller.to_the_end()).replace(COMMENT, b"")
        row = await gateway.books.row()
        error = json.loads(text.removeprefix(b"data: "))["error"]
    assert caller.response.status_code == 200
    assert (error["type"], error["code"]) == ("not_found_error", "NOT_FOUND_404")
    assert error["request_id"] == caller.response.headers["x-request-id"]
    assert (row.outcome, row.status, row.error_code) == (Outcome.FAILED, 404, "NOT_FOUND_404")
    assert gateway.books.shares[0].ended == [(0, 0)]


async def test_openais_client_raises_an_error_behind_the_head_and_reads_an_answer_behind_it() -> None:
    begins = asyncio.Event()
    replies = iter([chat_stream("sound").after(begins), refused(404).after(begins)])
    async with (
        gateway_to(ScriptedProvider(lambda _: next(replies)), keep_alive=KeepAlive(SECONDS)) as gateway,
        asyncio.timeout(20),
    ):
        create = gateway.client.chat.completions.create
        stream = await create(model="small", messages=MESSAGES, stream=True)  # returns with the head
        begins.set()
        assert "".join([piece.choices[0].delta.content or "" async for piece in stream if piece.choices]) == "sound"
        begins.clear()
        stream = await create(model="small", messages=MESSAGES, stream=True)
        begins.set()
        with pytest.raises(openai.APIError, match="do not offer"):
            [piece async for piece in stream]


@pytest.mark.parametrize("status", [404, 400, 503])
async def test_an_error_before_the_head_has_its_status(status: int) -> None:
    provider = ScriptedProvider(refused(status))
    async with gateway_to(provider, keep_alive=KeepAlive(20)) as gateway, reading(gateway) as caller:
        assert caller.response.status_code == status
        assert (await caller.to_the_end()).startswith(b'{"error":')


async def test_comments_come_between_whole_events_where_a_stream_falls_silent() -> None:
    """Half an event is held back, so that a comment is not put into it."""
    goes_on = asyncio.Event()
    first, rest = chat_stream("so", "und").actions[:2], chat_stream("und").actions[2:]
    half = b"data: {"
    silent = Reply(first).then(b"%x\r\n%b\r\n" % (len(half), half), Pause(goes_on))
    other = b'"id":"x","choices":[]}\n\n'
    silent = silent.then(b"%x\r\n%b\r\n" % (len(other), other), *rest)
    async with (
        gateway_to(ScriptedProvider(silent), keep_alive=KeepAlive(SECONDS)) as gateway,
        asyncio.timeout(20),
        reading(gateway) as caller,
    ):
        text = await caller.until(COMMENT * 2)
        assert text.endswith(b"\n\n" + COMMENT * 2)
        goes_on.set()
        await caller.to_the_end()
        row = await gateway.books.row()
    assert (row.outcome, row.status) == (Outcome.COMPLETED, 200)


async def test_a_providers_own_comments_pass_and_are_enough() -> None:
    goes_on = asyncio.Event()
    ping = b": ping\n\n"
    pings = [part for _ in range(6) for part in (Pause(SECONDS / 2), b"%x\r\n%b\r\n" % (len(ping), ping))]
    reply = begun(chat_chunk("so")).then(*pings, Pause(goes_on), *chat_stream("x").actions[2:])
    async with (
        gateway_to(ScriptedProvider(reply), keep_alive=KeepAlive(SECONDS * 5)) as gateway,
        asyncio.timeout(20),
        reading(gateway) as caller,
    ):
        text = await caller.until(ping * 6)
        assert COMMENT not in text
        goes_on.set()
        await caller.to_the_end()


async def test_a_broken_stream_ends_as_it_does_without_comments() -> None:
    breaks = asyncio.Event()
    async with (
        gateway_to(
            ScriptedProvider(begun(chat_chunk("so")).then(Pause(breaks), Close())), keep_alive=KeepAlive(SECONDS)
        ) as gateway,
        asyncio.timeout(20),
        reading(gateway) as caller,
    ):
        await caller.until(COMMENT)
        breaks.set()
        text = await caller.to_the_end()
        row = await gateway.books.row()
    assert b'"code":"UPSTREAM_502"' in text.rpartition(b"data: ")[2]
    assert (row.outcome, row.status, row.error_code) == (Outcome.FAILED, 200, "UPSTREAM_502")


async def test_a_caller_who_leaves_behind_the_head_cancels_the_request() -> None:
    provider = ScriptedProvider(Reply((Pause(None),)))
    async with gateway_to(provider, keep_alive=KeepAlive(SECONDS)) as gateway, asyncio.timeout(20):
        async with reading(gateway) as caller:
            await caller.until(COMMENT)
        row = await gateway.books.row()
        await provider.was_left.wait()
    assert (row.outcome, row.status) == (Outcome.CANCELLED, 499)


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
async def test_a_whole_answer_gets_no_head_before_it_is_there(path: str) -> None:
    """Embeddings are whole whatever `stream` says."""
    body = {"model": "small", "messages": MESSAGES, "input": "x", "stream": path == "/embeddings"}
    answer = events() if path == "/embeddings" else chat("sound")
    async with gateway_to(ScriptedProvider(answer.after(SECONDS * 4)), keep_alive=KeepAlive(SECONDS)) as gateway:
        response = await gateway.http.post(f"{gateway.url}{path}", json=body)
    assert COMMENT not in response.content
    assert response.headers["content-type"] == "application/json"


async def test_the_timer_ends_with_the_last_stream() -> None:
    keep_alive = KeepAlive(SECONDS)
    async with gateway_to(ScriptedProvider(says("sound")), keep_alive=keep_alive) as gateway, asyncio.timeout(20):
        async with reading(gateway) as caller:
            await caller.to_the_end()
        await until(lambda: keep_alive.is_idle)


class Broken:
    """A request whose look fails."""

    started = 0.0

    @property
    def relay(self) -> None:
        raise RuntimeError("x")


async def test_an_error_in_one_look_does_not_end_the_looks() -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    keep_alive = KeepAlive(0.04)
    broken = cast("RequestContext", Broken())
    keep_alive.watch(broken)
    await until(lambda: len(errors) >= 2)
    keep_alive.forget(broken)
    await until(lambda: keep_alive.is_idle)
    assert {type(error) for error in errors} == {RuntimeError}
