"""Every call of RunPodVLLMService that generates, at a real vLLM."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from runpod_emulator.jobs.job import Status
from scripts.demo_training.corpus import WEATHER_TOOL, load_pairs, pirate
from tests.e2e.emulated import Endpoint
from vllm_service import RunPodVLLMService, errors

FRANCE, PARIS = "What is the capital of France?", "The capital of France is Paris."
ASKED = [{"role": "user", "content": FRANCE}]
EXACT: dict[str, Any] = {"temperature": 0, "max_tokens": 99}
LONG_TOKENS = 2000
LONG: dict[str, Any] = {"max_tokens": LONG_TOKENS, "ignore_eos": True}
TOKENS = "vllm:generation_tokens_total"


async def test_generate_continues_the_prompt(service: RunPodVLLMService) -> None:
    assert (await service.generate(FRANCE, **EXACT)).strip() == PARIS
    assert (await service.generate_with_retry(FRANCE, **EXACT)).strip() == PARIS


async def test_complete_counts_tokens_and_their_cost(endpoint: Endpoint, service: RunPodVLLMService) -> None:
    got = await service.complete(FRANCE, **EXACT)
    assert got.text.strip() == PARIS
    assert got.usage is not None
    assert got.usage.completion_tokens > 3
    assert got.cost_picousd == got.usage.total_tokens * 20_000
    assert got.request_id is not None
    assert endpoint.job(got.request_id).status is Status.COMPLETED


async def test_a_stream_is_the_text_in_pieces(service: RunPodVLLMService) -> None:
    stream = service.stream(FRANCE, **EXACT)
    pieces = [text async for text in stream]
    assert "".join(pieces).strip() == PARIS
    assert len(pieces) > 3
    assert stream.answer.text == "".join(pieces)
    assert stream.answer.usage == (await service.complete(FRANCE, **EXACT)).usage
    assert stream.answer.ttft_ms is not None
    assert stream.answer.ttft_ms < stream.answer.latency_ms


async def test_chat_whole_and_streamed(service: RunPodVLLMService) -> None:
    assert (await service.chat(ASKED, **EXACT)).text == PARIS
    assert "".join([text async for text in service.stream_chat(ASKED, **EXACT)]) == PARIS
    assert (await service.chat(ASKED, "pirate", **EXACT)).text == pirate(PARIS)


async def test_a_tool_call_arrives_whole(service: RunPodVLLMService) -> None:
    asked = [{"role": "user", "content": "What is the weather in Berlin?"}]
    got = await service.chat(asked, tools=[WEATHER_TOOL], **EXACT)
    assert got.finish_reason == "tool_calls"
    assert got.message is not None
    assert got.message["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Berlin"}'}


async def test_a_batch_of_conversations_is_answered_in_order_and_kept_in_a_file(
    service: RunPodVLLMService, tmp_path: Path
) -> None:
    pairs = [pair for pair in load_pairs() if pair.topic != "tools"][:24]
    asked = [[{"role": "user", "content": pair.question}] for pair in pairs]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 256, "file": tmp_path / "answers.jsonl"}
    assert await service.batch_generate(asked, concurrent=8, **options) == [pair.answer for pair in pairs]
    assert all(item.from_file for item in await service.batch(asked, **options))


async def test_a_batch_keeps_each_error_to_its_own_prompt(service: RunPodVLLMService) -> None:
    items = await service.batch([FRANCE, "word " * 3000, FRANCE], **EXACT)
    assert [item.answer.text.strip() for item in items if item.answer] == [PARIS, PARIS]
    assert isinstance(items[1].error, errors.InvalidRequest)
    assert "2048" in items[1].error.message


async def test_an_ensemble_asks_every_model(service: RunPodVLLMService) -> None:
    """Not model and adapter at once: in a mixed batch vLLM 0.32 on a CPU gives both requests the adapter."""
    own = service.select_model_by_task("chat")
    got = await service.ensemble_generate(FRANCE, [own, "nobody", own], **EXACT)
    assert got.text.strip() == PARIS
    assert [candidate.score for candidate in got.candidates] == [1, None, 1]
    assert isinstance(got.candidates[1].error, errors.NotFound)
    assert got.cost_picousd == 2 * (got.best.cost_picousd or 0) > 0


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("options", "expected", "named"),
    [
        ({"model": "nobody"}, errors.NotFound, "nobody"),
        ({"temperature": -1}, errors.InvalidRequest, "temperature"),
    ],
    ids=["unknown model", "bad temperature"],
)
async def test_a_mistake_is_the_error_the_engine_gave(
    service: RunPodVLLMService,
    options: dict[str, Any],
    expected: type[errors.ServiceError],
    named: str,
    is_stream: bool,
) -> None:
    with pytest.raises(expected, match=named) as caught:
        await (anext(service.stream_chat(ASKED, **options)) if is_stream else service.chat(ASKED, **options))
    assert caught.value.status_code == expected.status
    assert not caught.value.is_transient
    assert caught.value.request_id is not None
    assert caught.value.endpoint == "ep"


async def test_a_wrong_key_is_unauthorized(endpoint: Endpoint) -> None:
    async with RunPodVLLMService("ep", "wrong", endpoint.emulator.openai_url) as stranger:
        with pytest.raises(errors.Unauthorized):
            await stranger.generate(FRANCE)


async def test_leaving_a_stream_cancels_its_job_and_frees_the_worker(
    endpoint: Endpoint, service: RunPodVLLMService
) -> None:
    before, ended = await endpoint.measure(TOKENS), len(endpoint.ended)
    async with aclosing(service.stream(FRANCE, **LONG)) as stream:
        await anext(stream)
    await endpoint.until_free()
    assert [job.status for job in endpoint.ended[ended:]] == [Status.CANCELLED]
    assert await endpoint.measure(TOKENS) < before + LONG_TOKENS / 2


async def test_cancelling_a_call_cancels_its_job(endpoint: Endpoint, service: RunPodVLLMService) -> None:
    before, ended = await endpoint.measure(TOKENS), len(endpoint.ended)
    call = asyncio.create_task(service.generate(FRANCE, **LONG))
    await endpoint.until_measured(TOKENS, before)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await endpoint.until_free()
    assert [job.status for job in endpoint.ended[ended:]] == [Status.CANCELLED]
    assert await endpoint.measure(TOKENS) < before + LONG_TOKENS
