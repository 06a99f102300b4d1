"""RunPodVLLMService against a scripted provider: what is sent, what is retried and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.vllm_service.client.runpod_provider import AT_ONCE, LAST, STOP, runpod, stream, stream_then
from vllm_service import RetryPolicy, RunPodVLLMService, ServiceError, StreamBroken, TokenPrice, errors
from vllm_service.client.errors import Unreachable
from vllm_service.testing import (
    DONE,
    HANGS,
    RESETS,
    Close,
    Pause,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    completion,
    in_turn,
    refused,
    whole,
)

MODEL = "m"
PRICES = {MODEL: TokenPrice.per_million("0.02", "0.04")}


@asynccontextmanager
async def provider(*replies: Reply, **options: Any) -> AsyncIterator[tuple[RunPodVLLMService, ScriptedProvider]]:
    async with (
        runpod(in_turn(*replies)) as server,
        RunPodVLLMService(api_key="k", base_url=server.url, default_model=MODEL, prices=PRICES, **options) as service,
    ):
        yield service, server


async def test_generate_sends_the_prompt_and_the_documented_defaults() -> None:
    async with provider(completion("four")) as (service, server):
        assert await service.generate("two and two", stop=["\n"]) == "four"
    (request,) = server.requests
    assert request.target == "/v2/ep/openai/v1/completions"
    assert request.headers["authorization"] == "Bearer k"
    expected = {"model": MODEL, "prompt": "two and two", "max_tokens": 500, "temperature": 0.7, "stop": ["\n"]}
    assert request.json == expected


async def test_an_answer_carries_its_tokens_cost_time_and_request_id() -> None:
    async with provider(completion("four", headers={"x-request-id": "req-1"})) as (service, _):
        got = await service.complete("two and two")
    assert got.usage is not None
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (10, 3)
    assert got.cost_picousd == 10 * 20_000 + 3 * 40_000
    assert (got.request_id, got.provider, got.model, got.attempts) == ("req-1", "runpod", MODEL, 1)
    assert got.latency_ms > 0
    assert got.ttft_ms is None


async def test_a_model_without_a_price_has_no_cost() -> None:
    async with provider(completion("four")) as (service, _):
        assert (await service.complete("x", "other")).cost_picousd is None


async def test_a_tool_call_is_in_the_message() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    reply = whole({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    async with provider(reply) as (service, _):
        got = await service.chat([{"role": "user", "content": "hi"}])
    assert (got.text, got.message, got.finish_reason, got.usage) == ("", message, "tool_calls", None)


async def test_a_single_call_is_made_once() -> None:
    async with provider(refused(503)) as (service, server):
        with pytest.raises(errors.ModelUnavailable):
            await service.generate("x")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [refused(429), refused(503), refused(500), RESETS, whole(b"<html>"), whole({"choices": []})],
    ids=["429", "503", "500", "reset", "garbage", "no choice"],
)
async def test_what_may_pass_is_tried_again(trouble: Reply) -> None:
    async with provider(trouble, trouble, completion("four"), retry=AT_ONCE) as (service, server):
        assert await service.generate_with_retry("x") == "four"
    assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", [HANGS, refused(504), refused(524)], ids=["silence", "504", "524"])
async def test_what_may_be_running_is_not_generated_again(trouble: Reply) -> None:
    async with provider(trouble, completion("four"), retry=AT_ONCE, timeout_seconds=0.3) as (service, server):
        with pytest.raises(ServiceError):
            await service.generate_with_retry("x")
    assert len(server.requests) == 1


async def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    async with provider(refused(503), refused(503), refused(429, "slow down"), retry=AT_ONCE) as (service, server):
        with pytest.raises(errors.RateLimited, match="slow down"):
            await service.generate_with_retry("x")
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.InvalidRequest),
        (401, errors.Unauthorized),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (422, errors.UpstreamError),
    ],
)
async def test_what_will_not_pass_is_not_tried_again(status: int, expected: type[ServiceError]) -> None:
    async with provider(refused(status, "no model m", headers={"x-request-id": "r"}), retry=AT_ONCE) as (
        service,
        server,
    ):
        with pytest.raises(expected, match="no model m") as caught:
            await service.generate_with_retry("x")
    assert len(server.requests) == 1
    error = caught.value
    assert (error.status_code, error.is_transient, error.request_id) == (status, False, "r")
    assert error.endpoint == server.url


async def test_all_attempts_together_have_a_time_limit() -> None:
    brief = RetryPolicy(attempts=5, wait_min_seconds=0, wait_max_seconds=0, jitter_seconds=0, total_seconds=0.2)
    async with provider(HANGS, retry=brief) as (service, server):
        with pytest.raises(errors.GatewayTimeout, match="all attempts together"):
            await service.generate_with_retry("x")
    assert len(server.requests) == 1


async def test_a_retry_after_beyond_the_time_that_is_left_ends_at_once() -> None:
    async with provider(refused(429, retry_after="3600"), retry=RetryPolicy(attempts=3)) as (service, server):
        with pytest.raises(errors.RateLimited) as caught:
            await service.generate_with_retry("x")
    assert len(server.requests) == 1
    assert caught.value.retry_after == 3600


async def test_a_call_that_takes_too_long_is_a_timeout() -> None:
    async with provider(HANGS, timeout_seconds=0.1) as (service, _):
        with pytest.raises(errors.GatewayTimeout):
            await service.generate("x")


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with runpod(in_turn(RESETS)) as server:
        url = server.url
    async with RunPodVLLMService(base_url=url) as service:
        with pytest.raises(Unreachable) as caught:
            await service.generate("x")
    assert caught.value.is_transient


async def test_a_stream_is_its_pieces_and_then_the_whole_answer() -> None:
    async with provider(stream("fo", "ur", STOP, LAST, DONE)) as (service, server):
        reading = service.stream("x")
        with pytest.raises(errors.InvalidRequest, match="not been read to its end"):
            _ = reading.answer
        assert [text async for text in reading] == ["fo", "ur"]
    assert server.requests[0].json["stream_options"] == {"include_usage": True}
    got = reading.answer
    assert (got.text, got.finish_reason, got.cost_picousd) == ("four", "stop", 10 * 20_000 + 3 * 40_000)
    assert got.ttft_ms is not None
    assert got.ttft_ms <= got.latency_ms


async def test_an_empty_answer_is_an_answer() -> None:
    async with provider(stream(STOP, DONE)) as (service, _):
        reading = service.stream("x")
        assert [text async for text in reading] == []
    assert (reading.answer.text, reading.answer.ttft_ms, reading.answer.usage) == ("", None, None)


@pytest.mark.parametrize(
    "trouble",
    [refused(503), RESETS, stream_then(Close()), stream_then(Close(), ""), stream(), stream(b"data: {\n\n")],
    ids=["503", "reset", "cut before an event", "cut before text", "no event", "garbage"],
)
async def test_a_stream_is_tried_again_until_its_first_text(trouble: Reply) -> None:
    async with provider(trouble, trouble, stream("four", STOP, DONE)) as (service, server):
        reading = service.stream("x", retry=AT_ONCE)
        assert [text async for text in reading] == ["four"]
    assert len(server.requests) == 3
    assert reading.answer.attempts == 3


ENGINE_ERROR = {"error": {"message": "the engine died", "type": "X", "code": 503, "param": None}}


@pytest.mark.parametrize(
    "trouble",
    [
        stream_then(Close(), "fo"),
        stream("fo"),
        stream("fo", b"data: {\n\n"),
        stream("fo", ENGINE_ERROR),
        stream("fo", {"odd": 1}),
    ],
    ids=["reset", "ended", "garbage", "error event", "no chunk"],
)
async def test_a_stream_that_has_begun_is_never_asked_again(trouble: Reply) -> None:
    async with provider(trouble, retry=AT_ONCE) as (service, server):
        reading = service.stream("x", retry=AT_ONCE)
        assert await anext(reading) == "fo"
        with pytest.raises(StreamBroken) as caught:
            await anext(reading)
    assert len(server.requests) == 1
    assert not caught.value.is_transient


async def test_a_stream_with_done_and_without_a_finish_reason_is_complete() -> None:
    async with provider(stream("fo", DONE), retry=AT_ONCE) as (service, _):
        assert [text async for text in service.stream("x", retry=AT_ONCE)] == ["fo"]


async def test_an_error_event_before_any_text_is_the_error_it_names() -> None:
    async with provider(stream({"error": {"message": "no such model", "code": 404}})) as (service, _):
        with pytest.raises(errors.NotFound, match="no such model"):
            await anext(service.stream("x"))


async def test_leaving_a_stream_leaves_the_provider() -> None:
    async with provider(stream_then(Pause(None), "fo")) as (service, server):
        async with service.stream("x") as reading:
            assert await anext(reading) == "fo"
        await asyncio.wait_for(server.was_left.wait(), 10)


async def test_cancelling_a_call_leaves_the_provider() -> None:
    async with provider(HANGS) as (service, server):
        task = asyncio.create_task(service.generate_with_retry("x"))
        await server.is_silent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.was_left.wait(), 10)


async def test_neither_key_nor_prompt_is_in_an_error() -> None:
    async with (
        runpod(lambda request: whole(request.last_text.encode(), 500)) as server,
        RunPodVLLMService(api_key="secret-key", base_url=server.url) as service,
    ):
        with pytest.raises(ServiceError) as caught:
            await service.generate("secret prompt")
    assert "secret" not in f"{caught.value!r} {caught.value.details}"


async def test_a_model_is_chosen_by_task() -> None:
    async with provider(completion("x"), models_by_task={"code": "coder", "poetry": "bard"}) as (service, _):
        chosen = [service.select_model_by_task(task) for task in ("code", "chat", "analysis", "poetry")]
        assert chosen == ["coder", MODEL, MODEL, "bard"]
        with pytest.raises(errors.InvalidRequest, match="code, chat, analysis, poetry"):
            service.select_model_by_task("cooking")


def by_model(request: ReceivedRequest) -> Reply:
    said = {"a": "Paris is the capital", "b": "the capital is Paris", "c": "Bananas"}
    model = request.json["model"]
    return completion(said[model]) if model in said else refused(404, "no such model")


@asynccontextmanager
async def several() -> AsyncIterator[RunPodVLLMService]:
    async with runpod(by_model) as server, RunPodVLLMService(base_url=server.url, prices=PRICES) as service:
        yield service


async def test_an_ensemble_gives_what_most_models_say_and_every_candidate() -> None:
    async with several() as service:
        got = await service.ensemble_generate("Capital of France?", ["c", "a", "gone", "b"])
    assert got.text == "Paris is the capital"
    assert [candidate.model for candidate in got.candidates] == ["c", "a", "gone", "b"]
    assert [candidate.score for candidate in got.candidates] == [0, 0.5, None, 0.5]
    assert isinstance(got.candidates[2].error, errors.NotFound)
    assert got.cost_picousd is None


async def test_the_scorer_may_be_replaced_and_may_be_async() -> None:
    async def likes_bananas(prompt: str, answers: Any) -> list[float]:
        return [float("Bananas" in one.text) for one in answers]

    async with several() as service:
        assert (await service.ensemble_generate("x", ["a", "b", "c"], scorer=likes_bananas)).text == "Bananas"
        with pytest.raises(errors.NotFound):
            await service.ensemble_generate("x", ["gone"])
        with pytest.raises(errors.InvalidRequest, match="scores"):
            await service.ensemble_generate("x", ["a", "b"], scorer=lambda prompt, answers: [1.0])
