"""Providers that send no usage: counted with the model's tokenizer, exactly and marked, after the answer has gone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings, expected_answer
from tests.support import Worker
from tests.vllm_service.gateway.running import Running, catalog_of, running
from vllm_service.catalog.model import Catalog
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage
from vllm_service.gateway.answer_text import MOST_TEXT_BYTES, AnswerText
from vllm_service.gateway.operations import CHAT, COMPLETIONS, EMBEDDINGS
from vllm_service.gateway.token_counting import Tokenizer
from vllm_service.testing import DONE, Pause, ScriptedProvider, begun, chat_chunk, chat_stream, event

DEMO = Path(__file__).resolve().parents[3] / "demo_model"
LIBRARY = Library.from_file(str(DEMO / "tokenizer.json"))
PROMPT = "What is the capital of France?"
RENDERED = f"<|user|>\n{PROMPT}<|end|>\n<|assistant|>\n"
SAID: Any = [{"role": "user", "content": PROMPT}]


def tokens(text: str) -> int:
    return len(LIBRARY.encode(text, add_special_tokens=False).ids)


def with_tokenizer(catalog: Catalog, path: Path = DEMO) -> Catalog:
    return Catalog(catalog.providers, {name: replace(one, tokenizer=path) for name, one in catalog.models.items()})


@asynccontextmanager
async def silent(path: Path | None = DEMO) -> AsyncIterator[Running]:
    """A gateway to a provider that never sends usage."""
    provider = HostedSettings(name="hosted", models=(HostedModel(id="small-there"),), usage_place="nowhere")
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        catalog = catalog_of(emulator.hosted_url("hosted"))
        async with running(catalog if path is None else with_tokenizer(catalog, path)) as gateway:
            yield gateway


async def test_a_whole_answer_and_a_stream_are_counted_exactly() -> None:
    expected = Usage(tokens(RENDERED), tokens(expected_answer(PROMPT)), estimated=True)
    async with silent() as gateway:
        create = gateway.client.chat.completions.create
        answer = await create(model="small", messages=SAID)
        assert answer.usage is None
        assert (await gateway.books.row()).usage == expected
        async for _ in await create(model="small", messages=SAID, stream=True):
            pass
        row = await gateway.books.row(1)
    assert row.usage == expected
    assert row.cost_picousd == expected.prompt_tokens * 100_000 + expected.completion_tokens * 200_000
    assert [share.ended for share in gateway.books.shares] == [[(expected.total_tokens, row.cost_picousd)]] * 2


async def test_every_operation_is_counted() -> None:
    text = expected_answer(PROMPT)
    async with silent() as gateway:
        client = gateway.client
        await client.completions.create(model="small", prompt=PROMPT)
        assert (await gateway.books.row()).usage == Usage(tokens(PROMPT), tokens(text), estimated=True)
        async for _ in await client.responses.create(model="small", input=PROMPT, stream=True):
            pass
        assert (await gateway.books.row(1)).usage == Usage(tokens(RENDERED), tokens(text), estimated=True)
        await client.responses.create(model="small", input=PROMPT)
        assert (await gateway.books.row(2)).usage == Usage(tokens(RENDERED), tokens(text), estimated=True)
        await client.embeddings.create(model="small", input=[PROMPT, PROMPT])
        assert (await gateway.books.row(3)).usage == Usage(2 * tokens(PROMPT), 0, estimated=True)


async def test_each_choice_is_counted_for_itself() -> None:
    both = sum(tokens(expected_answer(PROMPT, choice=choice)) for choice in (0, 1))
    async with silent() as gateway:
        async for _ in await gateway.client.chat.completions.create(model="small", messages=SAID, n=2, stream=True):
            pass
        usage = (await gateway.books.row()).usage
    assert usage == Usage(tokens(RENDERED), both, estimated=True)


async def test_of_an_answer_that_was_left_what_came_is_counted() -> None:
    upstream = ScriptedProvider(begun(chat_chunk("The capital of")).then(Pause(None)))
    async with upstream, running(with_tokenizer(catalog_of(upstream.url))) as gateway:
        stream = await gateway.client.chat.completions.create(model="small", messages=SAID, stream=True)
        async for _ in stream:
            break
        await stream.close()
        row = await gateway.books.row()
    assert row.outcome is Outcome.CANCELLED
    assert row.usage == Usage(tokens(RENDERED), tokens("The capital of"), estimated=True)


async def test_a_providers_own_usage_is_never_replaced() -> None:
    upstream = ScriptedProvider(chat_stream("Hello"))
    async with upstream, running(with_tokenizer(catalog_of(upstream.url))) as gateway:
        async for _ in await gateway.client.chat.completions.create(model="small", messages=SAID, stream=True):
            pass
        assert (await gateway.books.row()).usage == Usage(10, 3)


async def test_without_a_tokenizer_that_works_the_estimate_stays(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    for path in (None, broken):
        async with silent(path) as gateway:
            async for _ in await gateway.client.chat.completions.create(model="small", messages=SAID, stream=True):
                pass
            usage = (await gateway.books.row()).usage
        assert usage is not None
        assert usage.estimated
        assert usage.prompt_tokens != tokens(RENDERED)


def fed(pieces: Iterable[bytes]) -> AnswerText:
    said = AnswerText()
    receive = said.around(lambda data: None)
    for piece in pieces:
        receive(piece)
    return said


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_cut_anywhere_says_the_same(size: int) -> None:
    stream = b"".join(event(chat_chunk(word)) for word in ("Grüße, ", "東京", "\n\ndata: {}")) + DONE
    said = fed(stream[start : start + size] for start in range(0, len(stream), size))
    assert said.ended() == {0: ["Grüße, ", "東京", "\n\ndata: {}"]}


def test_what_is_kept_is_bounded_and_less_than_the_stream() -> None:
    pieces = [event(chat_chunk("word " * 10))] * 20_000
    said = fed(pieces)
    assert sum(map(len, pieces)) > 2 * MOST_TEXT_BYTES
    assert said.ended() == {0: ["word " * 10] * 20_000}
    assert fed([event(chat_chunk("x" * 1000))] * (MOST_TEXT_BYTES // 1000 + 100)).ended() is None
    assert fed([b"data: " + b"x" * 2 * MOST_TEXT_BYTES]).ended() is None  # one line without an end
    assert AnswerText.whole(b" " * (MOST_TEXT_BYTES + 1)).ended() is None


def test_prompts_in_all_their_forms() -> None:
    tokenizer = Tokenizer(DEMO / "tokenizer.json")
    parts = b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "%b"}]}]}' % PROMPT.encode()
    assert tokenizer.prompt_tokens(CHAT, parts) == tokens(RENDERED)
    assert tokenizer.prompt_tokens(COMPLETIONS, b'{"prompt": [1, 2, 3]}') == 3
    assert tokenizer.prompt_tokens(EMBEDDINGS, b'{"input": [[1, 2], [3]]}') == 3
    with pytest.raises(ValueError, match="no prompt"):
        tokenizer.prompt_tokens(COMPLETIONS, b"{}")


async def test_prompts_are_counted_as_vllm_counts_them(worker: Worker) -> None:
    """With a system's message, tools and a call of one: the template's every branch."""
    weather = {"name": "weather", "description": "Tells it", "parameters": {"type": "object", "properties": {}}}
    tool = {"type": "function", "function": weather}
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "18 °C"},
    ]
    tokenizer = Tokenizer(DEMO)
    bodies: list[dict[str, Any]] = [
        {"messages": SAID},
        {"messages": messages},
        {"messages": SAID, "tools": [tool], "tool_choice": "none"},
    ]
    for body in bodies:
        answer = await worker.openai("/v1/chat/completions", body | {"max_tokens": 1})
        assert tokenizer.prompt_tokens(CHAT, json.dumps(body).encode()) == answer["usage"]["prompt_tokens"]
