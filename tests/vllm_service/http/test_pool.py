"""Connections to providers: kept, replaced when stale, limited, and never mistaken for a whole answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.domain.answers import Form
from vllm_service.domain.event_stream import StreamBeginning
from vllm_service.http.pool import ConnectionPool
from vllm_service.http.upstream import CutShort, NotReached, ProviderFault
from vllm_service.testing import (
    CLOSES,
    Close,
    Pause,
    Reply,
    ScriptedProvider,
    chat_chunk,
    event,
    events,
    in_turn,
    whole,
)


@asynccontextmanager
async def connected(upstream: ScriptedProvider, **more: Any) -> AsyncIterator[tuple[ConnectionPool, Provider]]:
    connections = ConnectionPool()
    async with upstream:
        yield connections, Provider("p", ProviderKind.HOSTED, upstream.url, None, **more)
        await connections.close()


async def test_one_connection_carries_many_requests() -> None:
    upstream = ScriptedProvider(whole({"yes": True}))
    async with connected(upstream) as (connections, provider):
        for _ in range(5):
            answer = await connections.send(provider, "/x", b"", b"{}")
            assert (answer.status, answer.body) == (200, b'{"yes": true}')
    assert upstream.connections == 1


async def test_no_more_connections_than_allowed() -> None:
    upstream = ScriptedProvider(whole({}))
    async with connected(upstream, max_connections=3) as (connections, provider):
        await asyncio.gather(*(connections.send(provider, "/x", b"", b"{}") for _ in range(40)))
    assert len(upstream.requests) == 40
    assert upstream.connections == 3


async def test_a_kept_connection_that_had_been_closed_is_replaced() -> None:
    upstream = ScriptedProvider(in_turn(whole({}), CLOSES, whole({})))
    async with connected(upstream) as (connections, provider):
        await connections.send(provider, "/x", b"", b"{}")
        assert (await connections.send(provider, "/x", b"", b"{}")).status == 200
    assert (upstream.connections, len(upstream.requests)) == (2, 3)


async def test_a_new_connection_that_is_cut_is_not_asked_again() -> None:
    upstream = ScriptedProvider(CLOSES)
    async with connected(upstream) as (connections, provider):
        with pytest.raises(CutShort):
            await connections.send(provider, "/x", b"", b"{}")
    assert len(upstream.requests) == 1


async def test_nobody_there_is_not_reached() -> None:
    connections = ConnectionPool()
    for url in ("http://127.0.0.1:9/v1", "https://127.0.0.1:9/v1"):
        with pytest.raises(NotReached):
            await connections.send(Provider("p", ProviderKind.HOSTED, url), "/x", b"", b"{}")
    await connections.close()


async def test_a_certificate_that_nobody_vouches_for_is_not_reached() -> None:
    upstream = ScriptedProvider(whole({"yes": True}))
    connections = ConnectionPool(ssl.create_default_context())
    async with upstream:
        provider = Provider(
            "p", ProviderKind.HOSTED, upstream.url.replace("http:", "https:"), connect_timeout_seconds=0.5
        )
        with pytest.raises(NotReached):
            await connections.send(provider, "/x", b"", b"{}")
        await connections.close()


@pytest.mark.parametrize("cut_at", range(len(b'HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\n"yes')))
async def test_an_answer_with_a_length_that_is_cut_is_no_answer(cut_at: int) -> None:
    reply = Reply((b'HTTP/1.1 200 X\r\ncontent-length: 5\r\n\r\n"yes"'[:cut_at], Close()))
    async with connected(ScriptedProvider(reply)) as (connections, provider):
        with pytest.raises(CutShort):
            await connections.send(provider, "/x", b"", b"{}")


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    reply = Reply((b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nall of it", Close()))
    async with connected(ScriptedProvider(reply)) as (connections, provider):
        assert (await connections.send(provider, "/x", b"", b"{}")).body == b"all of it"


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    two = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad"
    upstream = ScriptedProvider(Reply((two,)))
    async with connected(upstream) as (connections, provider):
        with pytest.raises(CutShort):
            await connections.send(provider, "/x", b"", b"{}")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"\r\n",
    b"3\r\nabc\r\n", b"0\r\n\r\n",
    b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
    b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
]))))  # fmt: skip
def test_garbage_is_an_answer_or_a_fault_and_nothing_else(parts: list[bytes]) -> None:
    async def once() -> None:
        async with connected(ScriptedProvider(Reply((*parts, Close())))) as (connections, provider):
            try:
                answer = await connections.send(provider, "/x", b"", b"{}", beginning=StreamBeginning(Form.CHAT))
                if answer.is_stream:
                    await answer.relay(lambda data: None)
            except ProviderFault:
                pass

    asyncio.run(once())


async def test_a_fault_of_who_reads_a_stream_is_not_the_providers(caplog: pytest.LogCaptureFixture) -> None:
    def receive(data: bytes) -> None:
        if b'"2"' in data:
            raise ZeroDivisionError("what the answer said")

    is_relayed = asyncio.Event()
    head, first, second, _ = events(chat_chunk("1"), chat_chunk("2")).actions
    reply = Reply((head, first, Pause(is_relayed), second))
    async with connected(ScriptedProvider(reply)) as (connections, provider):
        answer = await connections.send(provider, "/x", b"", b"{}", beginning=StreamBeginning(Form.CHAT))
        end = answer.relay(receive)
        is_relayed.set()
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            await end
    assert "ZeroDivisionError at " in caplog.text
    assert "what the answer said" not in caplog.text


async def test_what_comes_in_one_read_is_passed_on_in_one_piece() -> None:
    is_relayed = asyncio.Event()
    sent = [event(chat_chunk(str(number))) for number in range(1, 30)]
    head, first, *rest = (action for action in events(*sent).actions if isinstance(action, bytes))
    reply = Reply((head, first, Pause(is_relayed), b"".join(rest)))
    received: list[bytes] = []
    async with connected(ScriptedProvider(reply)) as (connections, provider):
        answer = await connections.send(provider, "/x", b"", b"{}", beginning=StreamBeginning(Form.CHAT))
        end = answer.relay(received.append)
        is_relayed.set()
        await end
    assert received == [sent[0], b"".join(sent[1:])]


UNREACHABLE = [
    "http://127.0.0.1:99999/v1",
    f"http://{'a' * 70}.test/v1",
    "http:///v1",
    "http://a..b/v1",
    "http://ho st/v1",
    "http://[::1/v1",
    "http://\ud800/v1",
    "http://127.0.0.1:9/\u20ac",
    "http://127.0.0.1:9/v1\r\nx: y",
    "nonsense",
]


@pytest.mark.parametrize("url", UNREACHABLE)
async def test_an_address_that_no_request_can_reach_is_not_reached(url: str) -> None:
    connections = ConnectionPool()
    for _ in range(2):
        with pytest.raises(NotReached):
            await connections.send(Provider("p", ProviderKind.HOSTED, url), "/x", b"", b"{}")
    await connections.close()


@pytest.mark.parametrize("key", ["\u20ac", "a\r\nx-more: b"])
async def test_a_key_that_no_header_can_carry_is_not_sent(key: str) -> None:
    upstream = ScriptedProvider(whole({}))
    connections = ConnectionPool()
    async with upstream:
        with pytest.raises(NotReached):
            await connections.send(Provider("p", ProviderKind.HOSTED, upstream.url, key), "/x", b"", b"{}")
        await connections.close()
    assert upstream.requests == []
