"""A fault of the gateway itself: one answer, one row, no reservation left, and nothing of the prompt in the log."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import Any

import openai
import pytest

from tests.vllm_service.configured_order import ConfiguredOrder
from tests.vllm_service.gateway.asking import MESSAGES, answers
from tests.vllm_service.gateway.running import QUICK, Running, catalog_of, gateway_to, running
from vllm_service.catalog.model import Catalog, Offer, PublicModel
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.errors import StorageUnavailable
from vllm_service.gateway.config_snapshot import ConfigSnapshot
from vllm_service.http.server import HttpServer
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.policy import ResiliencePolicy
from vllm_service.storage.protocol import CachedResponse
from vllm_service.testing import ScriptedProvider

CANARY = "what-the-prompt-said"


class FaultyRouter(ConfiguredOrder):
    """Fails in one of its methods, with a text that no log may hold."""

    fails_in = ""

    def plan(self, *arguments: Any) -> Any:
        self._maybe_fail("plan")
        return super().plan(*arguments)

    def finished(self, *arguments: Any) -> None:
        self._maybe_fail("finished")

    def _maybe_fail(self, where: str) -> None:
        if where == self.fails_in:
            raise RuntimeError(CANARY)


def break_router(gateway: Running, fails_in: str) -> None:
    catalog = gateway.gateway.config.catalog()
    router = FaultyRouter(catalog)
    router.fails_in = fails_in
    gateway.gateway.config.snapshot = ConfigSnapshot(catalog, router)


@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_answer_the_caller_gets_a_500_and_the_request_its_row(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with gateway_to(ScriptedProvider(answers)) as gateway:
            break_router(gateway, "plan")
            with pytest.raises(openai.InternalServerError) as raised:
                await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=stream)
            row = await gateway.books.row()
    assert raised.value.code == "INTERNAL_500"
    assert (row.outcome, row.status, row.error_code) == (Outcome.FAILED, 500, "INTERNAL_500")
    assert raised.value.request_id == row.request_id
    assert [share.ended for share in gateway.books.shares] == [[None]]
    assert row.request_id in caplog.text
    assert "RuntimeError at " in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_after_the_answer_the_caller_notices_nothing_and_the_next_request_is_answered(stream: bool) -> None:
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        break_router(gateway, "finished")
        body = {"model": "small", "messages": MESSAGES, "stream": stream}
        texts = [(await gateway.http.post(f"{gateway.url}/chat/completions", json=body)).text for _ in range(2)]
        rows = [await gateway.books.row(number) for number in range(2)]
    assert all("Hel" in text for text in texts)
    assert len(gateway.books.rows) == 2
    assert [row.usage is not None for row in rows] == [True, True]
    assert [len(share.ended) for share in gateway.books.shares] == [1, 1]


async def test_a_recorder_that_fails_keeps_no_other_from_its_row(caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: RequestRecord) -> None:
        raise RuntimeError(CANARY)

    async with gateway_to(ScriptedProvider(answers), recorders=[fails]) as gateway:
        await gateway.client.chat.completions.create(model="small", messages=MESSAGES)
        row = await asyncio.wait_for(gateway.books.row(), 10)
    assert row.outcome is Outcome.COMPLETED
    assert "RuntimeError at " in caplog.text
    assert CANARY not in caplog.text


class FaultySpan:
    """Of a trace that cannot be ended."""

    def headers(self) -> bytes:
        return b""

    def attempted(self, *arguments: Any) -> None:
        pass

    def end(self, row: RequestRecord) -> None:
        raise RuntimeError(CANARY)


class FaultyTracer:
    def begin(self, *arguments: Any) -> FaultySpan:
        return FaultySpan()


async def test_a_trace_that_fails_takes_no_row() -> None:
    async with gateway_to(ScriptedProvider(answers), tracer=FaultyTracer()) as gateway:
        await gateway.client.chat.completions.create(model="small", messages=MESSAGES)
        row = await asyncio.wait_for(gateway.books.row(), 10)
    assert row.outcome is Outcome.COMPLETED


class FaultyCache:
    """Cannot keep what was answered."""

    def __init__(self, fault: BaseException) -> None:
        self._fault = fault

    async def get(self, organisation: str, key: bytes) -> CachedResponse | None:
        return None

    async def put(self, organisation: str, key: bytes, response: CachedResponse) -> None:
        raise self._fault


@pytest.mark.parametrize("fault", [StorageUnavailable("away"), asyncio.CancelledError(), RuntimeError(CANARY)])
async def test_what_fails_once_the_answer_is_given_takes_neither_it_nor_its_connection(fault: BaseException) -> None:
    body = b'{"model":"small","messages":[],"temperature":0}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-of-the-caller\r\n%b"
    length = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    async with gateway_to(ScriptedProvider(answers), responses=FaultyCache(fault)) as gateway:
        received = await gateway.raw(head % length + head % (b"connection: close\r\n" + length))
        rows = [await gateway.books.row(number) for number in range(2)]
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.count(b"HTTP/1.1") == 2
    assert [(row.outcome, row.status, row.error_code) for row in rows] == [(Outcome.COMPLETED, 200, None)] * 2


async def test_a_fault_while_a_request_is_read_is_not_told_as_the_callers(caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError(CANARY)

    server = HttpServer(fails)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    await server.listen(listening)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await server.stop(within_seconds=2)
    assert received.startswith(b"HTTP/1.1 500 ")
    assert "RuntimeError at " in caplog.text
    assert CANARY not in caplog.text


async def test_a_request_that_cannot_be_written_takes_no_probe() -> None:
    """Half a surrogate is no name that JSON could hold."""
    unwritable = "\ud800"
    over = ResiliencePolicy.of(BreakerSettings(consecutive_failures=1, open_seconds=0.001), retries=QUICK)
    breaker = over.breakers.of("provider-1", unwritable)
    now = time.monotonic()
    admission = breaker.admit(now)
    assert admission is not None
    breaker.failed(admission, 500, None, now - 1)
    async with ScriptedProvider(answers) as upstream:
        providers = catalog_of(upstream.url).providers
        catalog = Catalog(providers, {"small": PublicModel("small", (Offer("provider-1", unwritable),))})
        async with running(catalog, policy=over) as gateway:
            with pytest.raises(openai.InternalServerError):
                await gateway.client.chat.completions.create(model="small", messages=MESSAGES)
    assert breaker.allows(time.monotonic())
