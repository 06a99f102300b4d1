"""Batches: in order, one item each, resumed from a file; and 2,000 prompts through a provider that often fails."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_service.client.runpod_provider import AT_ONCE, STOP, runpod, stream, stream_then
from vllm_service import Answer, BatchFailed, BatchItem, RunPodVLLMService, ServiceError, errors
from vllm_service.client.batch import answer_all, texts
from vllm_service.client.payload import Payload
from vllm_service.testing import DONE, HANGS, RESETS, Close, ReceivedRequest, Reply, chat, completion, refused, whole

PROMPTS = [f"prompt {number}" for number in range(40)]


def echo(request: ReceivedRequest) -> Reply:
    said = f"answer to {request.last_text}"
    return chat(said) if "messages" in request.json else completion(said)


def answers(prompts: Sequence[str]) -> list[str]:
    return [f"answer to {prompt}" for prompt in prompts]


async def batch(url: str, prompts: Any = PROMPTS, **options: Any) -> list[BatchItem]:
    async with RunPodVLLMService(base_url=url, retry=AT_ONCE) as service:
        return await service.batch(prompts, **options)


async def test_texts_come_in_the_order_of_the_prompts() -> None:
    async with runpod(echo) as server, RunPodVLLMService(base_url=server.url) as service:
        assert await service.batch_generate(PROMPTS, concurrent=7) == answers(PROMPTS)
    assert len(server.requests) == len(PROMPTS)


async def test_so_many_are_asked_at_once_and_no_more() -> None:
    under_way: set[str] = set()
    full = asyncio.Event()

    async def asked(ask: Payload) -> Answer:
        under_way.add(ask.question["prompt"])
        assert len(under_way) <= 3
        if len(under_way) == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        under_way.remove(ask.question["prompt"])
        return Answer("fine", "m", "p", None, None, 1.0)

    items = await answer_all([Payload.completion(prompt, "m", {}) for prompt in PROMPTS], asked, concurrent=3)
    assert len(texts(items)) == len(PROMPTS)


async def test_a_failed_prompt_has_its_own_error_and_the_others_their_answers() -> None:
    def reply(request: ReceivedRequest) -> Reply:
        return refused(400, "too long") if request.last_text == "prompt 3" else echo(request)

    async with runpod(reply) as server:
        items = await batch(server.url, [*PROMPTS[:5], "", [{"role": "user", "content": "said"}]])
        assert [item.index for item in items] == list(range(7))
        assert [item.error.status for item in items if item.error is not None] == [400, 400]
        assert isinstance(items[5].error, errors.InvalidRequest)
        async with RunPodVLLMService(base_url=server.url) as service:
            with pytest.raises(BatchFailed, match="1 of 5 prompts") as caught:
                await service.batch_generate(PROMPTS[:5])
    assert [item.answer.text for item in caught.value.items if item.answer] == answers(
        [prompt for prompt in PROMPTS[:5] if prompt != "prompt 3"]
    )


async def test_progress_is_told_and_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    async with runpod(echo) as server:
        await batch(server.url, PROMPTS[:3], progress=lambda done, total: told.append((done, total)))
        await batch(server.url, PROMPTS[:3], progress=True)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert "3/3" in capsys.readouterr().err


async def test_a_batch_goes_on_from_its_file(tmp_path: Path) -> None:
    """The second run asks what the first was stopped at, what failed, and what has changed; nothing else."""
    file = tmp_path / "answers.jsonl"
    failing = {"prompt 2"}

    def reply(request: ReceivedRequest) -> Reply:
        return refused(400) if request.last_text in failing else echo(request)

    async with runpod(reply) as server:
        first = await batch(server.url, PROMPTS[:6], file=file)
        assert [item.from_file for item in first] == [False] * 6
        failing.clear()
        server.requests.clear()
        changed = [*PROMPTS[:5], "prompt 5, changed", "prompt 0"]
        second = await batch(server.url, changed, file=file)
        assert Counter(request.last_text for request in server.requests) == Counter(changed[i] for i in (2, 5, 6))
        assert [item.answer.text for item in second if item.answer] == answers(changed)
        assert [item.from_file for item in second] == [True, True, False, True, True, False, False]
        server.requests.clear()
        await batch(server.url, changed, file=file, temperature=0)
        assert len(server.requests) == len(changed)


async def test_an_answer_from_the_file_is_the_answer_that_was_given(tmp_path: Path) -> None:
    """Tool calls too."""
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    reply = whole({"choices": [{"message": called, "finish_reason": "tool_calls"}]})
    asked = [{"role": "user", "content": "x"}]
    async with runpod(lambda request: reply) as server:
        (first,) = await batch(server.url, [asked], file=tmp_path / "f")
        (second,) = await batch(server.url, [asked], file=tmp_path / "f")
    assert first.answer is not None
    assert first.answer.message == called
    assert second.answer == first.answer
    assert second.from_file


@pytest.mark.parametrize("kept", [1, 50, -1], ids=["one byte", "fifty bytes", "all but the newline"])
async def test_a_torn_last_line_is_asked_again_and_spoils_nothing(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "answers.jsonl"
    async with runpod(echo) as server:
        await batch(server.url, PROMPTS[:3], file=file, concurrent=1)
        whole = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join(whole[:2]) + whole[2][:kept])
        items = await batch(server.url, PROMPTS[:3], file=file)
        assert [item.answer.text for item in items if item.answer] == answers(PROMPTS[:3])
        assert items[2].from_file == (kept == -1)
        server.requests.clear()
        again = await batch(server.url, PROMPTS[:3], file=file)
        assert all(item.from_file for item in again)


async def test_the_file_holds_no_prompt(tmp_path: Path) -> None:
    async with runpod(lambda request: completion("fine")) as server:
        await batch(server.url, ["a secret question"], file=tmp_path / "f")
    assert "secret" not in (tmp_path / "f").read_text()


async def test_a_file_that_cannot_be_written_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    async with runpod(echo) as server:
        with pytest.raises(errors.ConfigurationError, match=r"file: .*missing.*No such file"):
            await batch(server.url, file=tmp_path / "missing" / "f")
    assert server.requests == []


async def test_cancelling_a_batch_keeps_what_had_ended(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"

    def reply(request: ReceivedRequest) -> Reply:
        return HANGS if request.last_text == "prompt 4" else echo(request)

    async with runpod(reply) as server:
        task = asyncio.create_task(batch(server.url, PROMPTS[:6], file=file, concurrent=1))
        await server.is_silent.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.was_left.wait(), 10)
    assert [json.loads(line)["index"] for line in file.read_text().splitlines()] == [0, 1, 2, 3]


def faulty(seed: int, share: float) -> Callable[[ReceivedRequest], Reply]:
    """Of all replies this share is some fault: a status, a reset, garbage, an answer cut off, or one that is slow."""
    chance = random.Random(seed)
    faults: list[Callable[[ReceivedRequest], Reply]] = [
        lambda request: refused(429, retry_after="0"),
        lambda request: refused(503),
        lambda request: RESETS,
        lambda request: whole(b"\x00garbage\xff"),
        lambda request: whole({"choices": [{"text": 3}]}),
        lambda request: echo(request).in_pieces(40),
        lambda request: echo(request).cut_at(echo(request).size - 20),
    ]

    def reply(request: ReceivedRequest) -> Reply:
        return chance.choice(faults)(request) if chance.random() < share else echo(request)

    return reply


@pytest.mark.parametrize("share", [0.3, 0.9])
async def test_of_two_thousand_prompts_each_is_answered_once_or_has_its_own_error(share: float) -> None:
    prompts = [f"prompt {number}" for number in range(2000)]
    async with runpod(faulty(7, share)) as server:
        items = await batch(server.url, prompts, concurrent=64)
    asked = Counter(request.last_text for request in server.requests)
    assert [item.index for item in items] == list(range(2000))
    for item, prompt in zip(items, prompts, strict=True):
        assert 1 <= asked[prompt] <= AT_ONCE.attempts
        if item.answer is not None:
            assert item.error is None
            assert item.answer.text == f"answer to {prompt}"
            assert item.answer.attempts == asked[prompt]
        else:
            assert isinstance(item.error, ServiceError)
            assert item.error.is_transient
            assert asked[prompt] == AT_ONCE.attempts
    answered = sum(item.answer is not None for item in items)
    assert answered > 1900 if share == 0.3 else 0 < answered < 1900


async def test_of_five_hundred_streams_each_ends_whole_or_with_an_error_and_no_text_comes_twice() -> None:
    chance = random.Random(3)

    def reply(request: ReceivedRequest) -> Reply:
        said = (request.last_text, " is", " heard", STOP, DONE)
        cut = chance.randrange(len(said))
        faults = [refused(503), RESETS, stream_then(Close(), *said[:cut]), stream(*said[: min(cut, 3)])]
        return chance.choice(faults) if chance.random() < 0.3 else stream(*said)

    async with runpod(reply) as server, RunPodVLLMService(base_url=server.url) as service:

        async def read(prompt: str) -> tuple[str, bool]:
            said = ""
            try:
                async with aclosing(service.stream(prompt, retry=AT_ONCE)) as stream:
                    async for text in stream:
                        said += text
            except ServiceError:
                return said, False
            return said, True

        gate = asyncio.Semaphore(64)

        async def bounded(prompt: str) -> tuple[str, bool]:
            async with gate:
                return await read(prompt)

        prompts = [f"p{number}" for number in range(500)]
        ended = await asyncio.gather(*map(bounded, prompts))
    for prompt, (said, is_whole) in zip(prompts, ended, strict=True):
        expected = f"{prompt} is heard"
        assert said == expected if is_whole else expected.startswith(said)
    assert sum(is_whole for _, is_whole in ended) > 400
