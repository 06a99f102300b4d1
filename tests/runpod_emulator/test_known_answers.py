"""Answers of an emulated provider that come from a file of questions and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from runpod_emulator import HostedProviders
from runpod_emulator.hosted import read_config
from runpod_emulator.hosted.known_answers import KnownAnswers

PAIRS = """{"topic": "facts", "question": "What is the capital of France?", "answer": "The capital of France is Paris."}

{"question": "Größe?", "answer": "Zwei  Meter 🙂 hoch."}
{"question": "what is the CAPITAL of france", "answer": "A second answer to the same question."}
"""
PROPOSES_A_QUESTION = (
    "I am an emulated provider and have only the answers of a file. Try: What is the capital of France?"
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a provider whose answers come from a file beside it."""
    (tmp_path / "pairs.jsonl").write_text(PAIRS, encoding="utf-8")
    model = {"id": "small", "input_usd": "2.50", "output_usd": "10.00", "answers_file": "pairs.jsonl"}
    path = tmp_path / "providers.json"
    path.write_text(json.dumps({"providers": [{"name": "one", "models": [model]}]}))
    return path


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("What is the capital of France?", "The capital of France is Paris."),
        ("  what is the capital\nof FRANCE ", "The capital of France is Paris."),
        ([{"type": "text", "text": "Größe?"}], "Zwei  Meter 🙂 hoch."),
        ("What is the capital of Atlantis?", PROPOSES_A_QUESTION),
        ("", PROPOSES_A_QUESTION),
    ],
)
def test_the_last_message_finds_its_answer_whatever_its_case_and_spaces(
    config: Path, content: object, answer: str
) -> None:
    (provider,) = read_config(config)
    answers = provider.models[0].known_answers
    assert answers is not None
    messages = [{"role": "user", "content": "Hello!"}, {"role": "user", "content": content}]
    assert answers.to({"messages": messages}, "the whole prompt") == answer


def test_a_prompt_without_messages_is_the_question(config: Path) -> None:
    answers = KnownAnswers.read(config.parent / "pairs.jsonl")
    assert answers.to({"prompt": "Größe?"}, "Größe?") == "Zwei  Meter 🙂 hoch."


async def test_whole_and_streamed_answers_are_the_file_s_and_the_bill_counts_their_words(config: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "Größe?"}]
    async with HostedProviders(read_config(config)) as hosted, httpx.AsyncClient(trust_env=False) as bare:
        base_url = hosted.base_url("one")
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            whole = await client.chat.completions.create(model="small", messages=messages)
            stream = await client.chat.completions.create(model="small", messages=messages, stream=True)
            streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            short = await client.chat.completions.create(model="small", messages=messages, max_tokens=2)
        bill = (await bare.get(base_url.removesuffix("/v1") + "/bill")).json()
    assert whole.choices[0].message.content == streamed == "Zwei  Meter 🙂 hoch."
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("Zwei  Meter", "length")
    assert [line["completion_tokens"] for line in bill["lines"]] == [4, 4, 2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": "c"}', "pairs.jsonl:2: expected an object with question"),
        ("[1]", "pairs.jsonl:1: expected an object"),
        ('{"question": "a", "answer": ""}', "pairs.jsonl:1: question and answer must be texts"),
        ("\n", "pairs.jsonl: expected at least one line"),
    ],
)
def test_a_file_that_is_no_list_of_pairs_is_refused_with_its_line(config: Path, text: str, complaint: str) -> None:
    (config.parent / "pairs.jsonl").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        read_config(config)
