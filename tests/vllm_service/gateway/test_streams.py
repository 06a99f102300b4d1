"""Streams that break, wait, are left, or come in odd pieces."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import openai
import pytest

from tests.vllm_service.gateway.asking import HEADERS, MESSAGES, joined
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, gateway_to, running
from tests.waiting import until
from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.testing import (
    DONE,
    HANGS,
    Close,
    Pause,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    Signal,
    begun,
    chat_chunk,
    chat_events,
    chat_stream,
    events,
)

WHOLE = joined(chat_events("Hel", "lo \u4e16\u754c"))
SHOWN = joined(chat_events("Hel", "lo \u4e16\u754c", usage=None))


async def streamed(gateway: Running) -> bytes:
    body = {"model": "small", "stream": True}
    async with gateway.http.stream("POST", f"{gateway.url}/chat/completions", json=body, headers=HEADERS) as response:
        return await response.aread()


def places_to_cut(data: bytes) -> list[int]:
    """Around the end of each event, and some between; test_event_relay.py tries every byte."""
    ends = [found.end() for found in re.finditer(rb"\n\n", data)]
    around = {end + offset for end in ends for offset in (-2, -1, 0, 1)}
    return sorted(at for at in around | set(range(0, len(data), 40)) if 0 <= at < len(data))


@pytest.mark.parametrize("end", ["cut", "clean"])
async def test_a_stream_cut_anywhere_never_ends_as_a_clean_one(end: str) -> None:
    position = 0

    def script(request: ReceivedRequest) -> Reply:
        sent = [WHOLE[:position]] if position else []
        return events(*sent) if end == "clean" else begun(*sent).then(Close())

    # A clean end behind the finish reason is the end of an answer, [DONE] or not: OpenAI's SDKs read it so.
    done_at = len(WHOLE) - 1 if end == "cut" else WHOLE.index(b"\n\n", WHOLE.index(b'"stop"')) + 1
    patient = ResiliencePolicy.of(BreakerSettings(consecutive_failures=10**6, minimum_requests=10**6), retries=QUICK)
    async with gateway_to(ScriptedProvider(script), policy=patient) as gateway:
        places = [place for place in places_to_cut(WHOLE) if place <= done_at]
        for number, position in enumerate(places):
            response = await gateway.http.post(
                f"{gateway.url}/chat/completions", json={"model": "small", "stream": True}, headers=HEADERS
            )
            row = await gateway.books.row(number)
            assert b"[DONE]" not in response.content, position
            assert row.outcome is Outcome.FAILED, position
            *passed, last = response.content.removesuffix(b"\n\n").split(b"\n\n")
            assert "error" in json.loads(last.removeprefix(b"data: ")), position
            assert SHOWN.startswith(b"".join(part + b"\n\n" for part in passed))
        position = done_at + 1
        assert await streamed(gateway) == SHOWN


def splits(data: bytes) -> Iterator[list[bytes]]:
    yield [data[at : at + 1] for at in range(len(data))]
    yield from ([data[:at], data[at:]] for at in places_to_cut(data) if at)


async def test_events_split_anywhere_arrive_whole() -> None:
    pieces: list[bytes] = []

    async with gateway_to(ScriptedProvider(lambda request: events(*pieces))) as gateway:
        for number, split in enumerate(splits(WHOLE)):
            pieces[:] = split
            assert await streamed(gateway) == SHOWN
            assert (await gateway.books.row(number)).usage == Usage(10, 3)


async def test_other_line_breaks_and_comments_pass() -> None:
    reply = events(b": waiting\r\n\r\n", WHOLE.replace(b"\n", b"\r\n"))
    async with gateway_to(ScriptedProvider(reply)) as gateway:
        assert await streamed(gateway) == b": waiting\r\n\r\n" + SHOWN.replace(b"\n", b"\r\n")
        assert (await gateway.books.row()).usage == Usage(10, 3)


async def test_the_official_client_raises_when_a_stream_breaks() -> None:
    async with gateway_to(ScriptedProvider(begun(chat_chunk("Hel")).then(Close()))) as gateway:
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            _ = [piece async for piece in stream]


async def left_after_one_chunk(gateway: Running) -> None:
    stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
    async for _ in stream:
        break
    await stream.close()


async def test_a_caller_who_leaves_stops_the_provider() -> None:
    upstream = ScriptedProvider(begun(chat_chunk("Hel")).then(Pause(None)))
    async with gateway_to(upstream) as gateway:
        await left_after_one_chunk(gateway)
        await asyncio.wait_for(upstream.was_left.wait(), 10)
        row = await gateway.books.row()
    assert (row.outcome, row.status) == (Outcome.CANCELLED, 499)
    assert row.usage is not None
    assert (row.usage.completion_tokens, row.usage.estimated) == (1, True)
    assert gateway.books.shares[0].ended != [None]


async def test_a_caller_who_leaves_before_the_answer_stops_the_provider_too() -> None:
    upstream = ScriptedProvider(HANGS)
    async with gateway_to(upstream) as gateway:
        call = asyncio.ensure_future(gateway.client.chat.completions.create(model="small", messages=MESSAGES))
        await upstream.is_silent.wait()
        call.cancel()
        await asyncio.wait_for(upstream.was_left.wait(), 10)
        assert (await gateway.books.row()).outcome is Outcome.CANCELLED


async def test_a_provider_that_bills_anyway_is_read_to_its_end() -> None:
    has_left = asyncio.Event()

    head, first, *rest = chat_stream("Hel", "lo").actions
    upstream = ScriptedProvider(Reply((head, first, Pause(has_left), *rest)))
    async with upstream, running(catalog_of(upstream.url, on_disconnect=OnDisconnect.DRAIN)) as gateway:
        await left_after_one_chunk(gateway)
        await until(lambda: not gateway.server.connected)
        has_left.set()
        row = await gateway.books.row()
    assert not upstream.was_left.is_set()
    assert (row.outcome, row.usage) == (Outcome.CANCELLED, Usage(10, 3))


async def test_a_slow_reader_slows_the_provider_and_misses_nothing() -> None:
    all_is_sent = asyncio.Event()
    *pieces, end = events(*[chat_chunk("x" * 60_000)] * 600, DONE).actions
    upstream = ScriptedProvider(Reply((*pieces, Signal(all_is_sent), end)))
    async with gateway_to(upstream) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        body = b'{"model":"small","stream":true}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer sk-of-the-caller\r\nx-annotate: off\r\n"
        writer.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await reader.readline()
        await until(lambda: gateway.has_paused_a_provider)
        assert not all_is_sent.is_set()  # without a reader, what is left never fits into the sockets' buffers
        rest = await reader.read()
        assert rest.count(b"data: ") == 601
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_provider_that_falls_silent_is_given_up() -> None:
    upstream = ScriptedProvider(
        lambda request: begun(chat_chunk("Hel")).then(Pause(None)) if request.is_stream else HANGS
    )
    soon = {"first_byte_timeout_seconds": 0.3, "idle_timeout_seconds": 0.3}
    async with upstream, running(catalog_of(upstream.url, **soon)) as gateway:
        with pytest.raises(openai.InternalServerError) as raised:
            await gateway.client.chat.completions.create(
                model="small", messages=MESSAGES, extra_headers={"x-request-timeout-ms": "300"}
            )
        assert (raised.value.status_code, raised.value.code) == (504, "GATEWAY_TIMEOUT_504")
        assert b"GATEWAY_TIMEOUT_504" in await streamed(gateway)
        assert (await gateway.books.row(1)).error_code == "GATEWAY_TIMEOUT_504"
