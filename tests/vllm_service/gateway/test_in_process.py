"""The way in without a socket: keys, limits, routing, ledger and cache hold as for a request from outside."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_service.gateway.running import SECRET, Running, catalog_of, running
from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.keys import ApiKey, OrganisationLimits, Tier
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.errors import (
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    ServiceError,
    UpstreamFailed,
)
from vllm_service.gateway.in_process import MOST_WAITING_BYTES
from vllm_service.gateway.labels import labels_in
from vllm_service.gateway.operations import CHAT
from vllm_service.storage.open import Storage, open_storage
from vllm_service.storage.responses.memory import MemoryResponses, ResponseBounds
from vllm_service.testing import (
    HANGS,
    Pause,
    Reply,
    Script,
    ScriptedProvider,
    chat_chunk,
    chat_stream,
    events,
    in_turn,
    refused,
    says,
)
from vllm_service.testing import chat as whole_chat

KEY = ApiKey("key-1", "acme")
LABELS = {"team": "search", "job": "nightly"}


def asking(text: str = "Hi", **options: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": text}], **options}


@asynccontextmanager
async def gateway_to(script: Script | Reply, **settings: Any) -> AsyncIterator[tuple[Running, ScriptedProvider]]:
    provider_settings = settings.pop("provider", {})
    async with (
        ScriptedProvider(script) as provider,
        running(catalog_of(provider.url, **provider_settings), **settings) as gateway,
    ):
        yield gateway, provider


def comparable(row: RequestRecord) -> dict[str, Any]:
    """Everything of a row that does not differ from one request to the next."""
    names = [name for name in row.__struct_fields__ if not name.endswith("_ms")]
    return {name: getattr(row, name) for name in names if name not in ("request_id", "started_at", "labels")}


async def test_an_answer_and_its_row_are_those_of_a_request_from_outside() -> None:
    async with gateway_to(says("Hello")) as (gateway, _):
        outside = await gateway.http.post(f"{gateway.url}/chat/completions", json=asking())
        inside = await gateway.gateway.complete(KEY, CHAT, asking(), LABELS)
        rows = gateway.books.rows
    assert inside.document["choices"] == outside.json()["choices"]
    assert comparable(rows[1]) == comparable(rows[0])
    assert (labels_in(rows[0].labels), labels_in(rows[1].labels)) == ({}, LABELS)
    assert (inside.request_id, inside.provider, inside.usage) == (rows[1].request_id, "provider-1", rows[1].usage)
    assert inside.cost_picousd == rows[1].cost_picousd is not None


async def test_a_stream_is_that_of_a_request_from_outside() -> None:
    async with gateway_to(says("Hel", "lo")) as (gateway, _):
        headers = {"x-annotate": "off"}
        outside = await gateway.http.post(f"{gateway.url}/chat/completions", json=asking(stream=True), headers=headers)
        stream = gateway.gateway.stream(KEY, CHAT, asking(), LABELS, headers)
        inside = b"".join([piece async for piece in stream])
        rows = gateway.books.rows
    assert inside == outside.content
    assert comparable(rows[1]) == comparable(rows[0])
    assert labels_in(rows[1].labels) == LABELS
    assert stream.completion.usage == rows[1].usage is not None
    assert stream.completion.cost_picousd == rows[1].cost_picousd


async def test_an_error_is_raised_and_booked() -> None:
    async with gateway_to(refused(500)) as (gateway, _):
        with pytest.raises(UpstreamFailed):
            await gateway.gateway.complete(KEY, CHAT, asking())
        with pytest.raises(UpstreamFailed):
            await anext(gateway.gateway.stream(KEY, CHAT, asking()))
        with pytest.raises(ModelNotFound):
            await gateway.gateway.complete(KEY, CHAT, {**asking(), "model": "none"})
        with pytest.raises(InvalidRequest):
            await gateway.gateway.complete(KEY, CHAT, {"messages": []})
        outcomes = [row.outcome for row in gateway.books.rows]
    assert outcomes == [Outcome.FAILED, Outcome.FAILED, Outcome.REJECTED, Outcome.REJECTED]


async def test_wrong_labels_are_refused_before_anything_is_sent() -> None:
    async with gateway_to(says("Hello")) as (gateway, provider):
        with pytest.raises(InvalidRequest, match=r"labels\.a"):
            await gateway.gateway.complete(KEY, CHAT, asking(), {"a": "v" * 513})
        with pytest.raises(InvalidRequest, match=r"labels\.a"):
            gateway.gateway.stream(KEY, CHAT, asking(), {"a": "v" * 513})
        assert provider.requests == []


async def test_routing_headers_hold() -> None:
    async with gateway_to(says("Hello"), router_costs=True) as (gateway, _):
        with pytest.raises(ServiceError):
            await gateway.gateway.complete(KEY, CHAT, asking(), headers={"x-route-provider": "none"})
        completion = await gateway.gateway.complete(KEY, CHAT, asking(), headers={"X-Request-Id": "mine"})
    assert completion.request_id == "mine"


@asynccontextmanager
async def real_storage(directory: Path) -> AsyncIterator[Storage]:
    async with open_storage(None, None, directory) as storage:
        yield storage


async def test_limits_are_shared_with_requests_from_outside_and_the_ledger_keeps_labels(tmp_path: Path) -> None:
    key = ApiKey("key-1", "acme", Tier.DEVELOPMENT, OrganisationLimits(None, 2, None, None))
    async with (
        real_storage(tmp_path) as storage,
        gateway_to(says("Hello"), quotas=storage.quotas, recorders=[storage.ledger.record]) as (gateway, _),
    ):
        gateway.books.keys[SECRET] = key
        await gateway.http.post(f"{gateway.url}/chat/completions", json=asking())
        await gateway.gateway.complete(key, CHAT, asking(), LABELS)
        with pytest.raises(RateLimited) as limited:
            await gateway.gateway.complete(key, CHAT, asking())
        refused_outside = await gateway.http.post(f"{gateway.url}/chat/completions", json=asking())
        assert storage.quotas.status().open_reservations == 0
    assert limited.value.details["limit"] == "requests_per_day"
    assert refused_outside.status_code == 429
    async with real_storage(tmp_path) as storage:
        rows = [row async for _, row in storage.ledger_reader.records()]
    assert [labels_in(row.labels) for row in rows] == [{}, LABELS, {}, {}]
    assert [row.outcome for row in rows] == [Outcome.COMPLETED] * 2 + [Outcome.REJECTED] * 2


async def test_many_at_once_count_no_address(tmp_path: Path) -> None:
    async with (
        open_storage(None, None, tmp_path, address_limit=1) as storage,
        gateway_to(says("Hello"), quotas=storage.quotas) as (gateway, _),
    ):
        answers = await asyncio.gather(*(gateway.gateway.complete(KEY, CHAT, asking()) for _ in range(10)))
    assert {answer.document["choices"][0]["message"]["content"] for answer in answers} == {"Hello"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_cache_is_shared_with_requests_from_outside(streamed: bool) -> None:
    async with gateway_to(says("Hello"), responses=MemoryResponses(ResponseBounds())) as (gateway, provider):
        body = asking(temperature=0, stream=streamed)
        await gateway.http.post(f"{gateway.url}/chat/completions", json=body)
        if streamed:
            stream = gateway.gateway.stream(KEY, CHAT, body)
            assert b"Hello" in b"".join([piece async for piece in stream])
            completion = stream.completion
        else:
            completion = await gateway.gateway.complete(KEY, CHAT, body)
            assert completion.document["choices"][0]["message"]["content"] == "Hello"
        assert len(provider.requests) == 1
    assert (completion.is_cached, completion.cost_picousd) == (True, 0)


async def test_a_cancelled_call_leaves_the_provider_and_is_booked() -> None:
    async with gateway_to(HANGS) as (gateway, provider):
        call = asyncio.create_task(gateway.gateway.complete(KEY, CHAT, asking(), LABELS))
        await provider.is_silent.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(provider.was_left.wait(), 10)
        row = await gateway.books.row()
    assert (row.outcome, row.status, labels_in(row.labels)) == (Outcome.CANCELLED, 499, LABELS)


async def test_a_timeout_around_a_call_is_a_timeout() -> None:
    async with gateway_to(HANGS) as (gateway, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await gateway.gateway.complete(KEY, CHAT, asking())
        assert (await gateway.books.row()).outcome is Outcome.CANCELLED


async def test_an_answer_that_is_to_be_drained_is_read_without_its_caller() -> None:
    may_answer = asyncio.Event()
    script = whole_chat("Hello").after(may_answer)
    async with gateway_to(script, provider={"on_disconnect": OnDisconnect.DRAIN}) as (gateway, provider):
        call = asyncio.create_task(gateway.gateway.complete(KEY, CHAT, asking()))
        await provider.until_requests(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        may_answer.set()
        row = await gateway.books.row()
    assert (row.outcome, row.usage and row.usage.completion_tokens) == (Outcome.CANCELLED, 3)


async def test_a_stream_that_is_closed_early_leaves_the_provider_and_is_booked() -> None:
    *begun, _ = events(chat_chunk("Hel")).actions
    script = Reply((*begun, Pause(None)))
    async with gateway_to(script) as (gateway, provider):
        async with gateway.gateway.stream(KEY, CHAT, asking()) as stream:
            assert b"Hel" in await anext(stream)
        await asyncio.wait_for(provider.was_left.wait(), 10)
        row = await gateway.books.row()
        with pytest.raises(RuntimeError, match="closed"):
            await anext(stream)
        with pytest.raises(ServiceError, match="cancelled"):
            _ = stream.completion
    assert (row.outcome, row.usage and row.usage.estimated) == (Outcome.CANCELLED, True)


async def test_a_stream_that_breaks_raises_after_its_last_piece() -> None:
    whole = chat_stream("Hel", "lo")
    script = whole.cut_at(whole.size - 40)
    async with gateway_to(in_turn(script)) as (gateway, _):
        stream = gateway.gateway.stream(KEY, CHAT, asking())
        pieces: list[bytes] = []

        async def read() -> None:
            async for piece in stream:
                pieces.append(piece)

        with pytest.raises(UpstreamFailed):
            await read()
        row = await gateway.books.row()
    assert b"Hel" in b"".join(pieces)
    assert b'"error"' not in b"".join(pieces)
    assert row.outcome is Outcome.FAILED


async def test_a_reader_that_is_behind_pauses_the_provider() -> None:
    text = "x" * 64_000
    script = chat_stream(*[text] * 100)
    async with gateway_to(script) as (gateway, _), gateway.gateway.stream(KEY, CHAT, asking()) as stream:
        first = await anext(stream)
        while not gateway.has_paused_a_provider:
            await asyncio.sleep(0)
        held = stream._pieces.waiting_bytes
        rest = b"".join([piece async for piece in stream])
    assert held < 8 * MOST_WAITING_BYTES
    assert (first + rest).count(text.encode()) == 100


async def test_a_completion_is_there_at_the_end_only() -> None:
    async with gateway_to(says("Hello")) as (gateway, _):
        stream = gateway.gateway.stream(KEY, CHAT, asking())
        with pytest.raises(RuntimeError):
            _ = stream.completion
        assert json.loads((await gateway.gateway.complete(KEY, CHAT, asking())).body)["object"] == "chat.completion"
        await stream.aclose()
        with pytest.raises(RuntimeError):
            await anext(stream)


async def test_a_stream_that_is_closed_at_once_leaves_its_row() -> None:
    async with gateway_to(HANGS) as (gateway, _):
        async with gateway.gateway.stream(KEY, CHAT, asking()) as stream:
            pass
        assert (await gateway.books.row()).outcome is Outcome.CANCELLED
        with pytest.raises(ServiceError, match="cancelled"):
            _ = stream.completion


async def test_a_reader_of_a_stream_that_another_task_closes_does_not_take_it_for_whole() -> None:
    async with gateway_to(HANGS) as (gateway, provider):
        stream = gateway.gateway.stream(KEY, CHAT, asking())
        reading = asyncio.ensure_future(anext(stream))
        await provider.is_silent.wait()
        with pytest.raises(RuntimeError, match="one reader"):
            await anext(stream)
        await stream.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await reading


async def test_a_stream_that_is_dropped_leaves_the_provider() -> None:
    *begun, _ = events(chat_chunk("Hel")).actions
    async with gateway_to(Reply((*begun, Pause(None)))) as (gateway, provider):
        stream = gateway.gateway.stream(KEY, CHAT, asking())
        assert b"Hel" in await anext(stream)
        del stream
        gc.collect()
        await asyncio.wait_for(provider.was_left.wait(), 10)
        assert (await gateway.books.row()).outcome is Outcome.CANCELLED


async def test_a_call_whose_task_is_cancelled_is_no_success() -> None:
    async with gateway_to(HANGS) as (gateway, provider):
        call = asyncio.create_task(gateway.gateway.complete(KEY, CHAT, asking()))
        await provider.is_silent.wait()
        for task in gateway.gateway._tasks:
            task.cancel()
        with pytest.raises(ServiceError, match="cancelled"):
            await call
