"""Requests that ask for much besides text, on the real engine: the worker's other jobs go on meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from handler.errors import InvalidInput, WorkerError
from tests.malformed import CHAT
from tests.support import Worker

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
MANY = [f"item number {number}" for number in range(100_000)]
#: How long another job may take on a busy machine of two cores; alone it takes a tenth of a second.
OTHERS_SECONDS = 20


def chat(**fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
    return {"openai_route": CHAT, "openai_input": body | fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"openai_route": "/v1/completions", "openai_input": {"prompt": "Hi", "max_tokens": 4} | fields}


REFUSED = {
    "100,000 choices": chat(structured_outputs={"choice": MANY}),
    "100,000 former choices": chat(guided_choice=MANY),
    "one choice of 100 kB": chat(structured_outputs={"choice": ["x" * 100_000]}),
    "a schema of 100,000 properties": chat(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object", "properties": {name: {} for name in MANY}}},
        }
    ),
    "100,000 biases": chat(logit_bias={str(number): 1 for number in range(100_000)}),
    "a text of 15 MB for the tokenizer": {"route": "/tokenize", "body": {"prompt": "h" * 15_000_000}},
    "a text that vLLM would cut": completion(prompt="hello " * 1_000_000, truncate_prompt_tokens=10),
    "100,000 prompts": completion(prompt=["hi"] * 100_000),
    "a prompt's probabilities a hundred times": completion(prompt=[5] * 1_900, n=100, echo=True, logprobs=20),
    "100,000 answers": completion(prompt=["hi"] * 1_000, n=100),
}


@pytest.mark.parametrize("job", REFUSED.values(), ids=list(REFUSED))
async def test_it_is_refused_at_once(worker: Worker, job: dict[str, Any]) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidInput, match=r"at the worker"):
        await worker.outputs(job)
    assert time.monotonic() - start < OTHERS_SECONDS
    assert await worker.chat(QUESTION) == ANSWER


LARGEST = {
    "choices": chat(structured_outputs={"choice": [f"item number {number:07d}" for number in range(600)]}),
    "one long choice": chat(structured_outputs={"choice": ["x" * 16_000]}),
    # vLLM gives up an expression that takes more than 5 s to compile: three times this one may, on a busy machine.
    "regular expression": chat(structured_outputs={"regex": "(a|b)" * 1_000}),
    "schema": chat(structured_outputs={"json": {"type": "string", "enum": MANY[:3_000]}}),
    "properties": chat(
        structured_outputs={
            "json": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(2_000)}}
        }
    ),
    "answers": completion(prompt=["hi"] * 4, n=128, max_tokens=1),
}


@pytest.mark.parametrize("job", LARGEST.values(), ids=list(LARGEST))
async def test_beside_the_largest_that_is_taken_others_are_answered(worker: Worker, job: dict[str, Any]) -> None:
    async def others() -> None:
        while not heavy.done():
            async with asyncio.timeout(OTHERS_SECONDS):
                assert await worker.chat(QUESTION) == ANSWER

    heavy = asyncio.create_task(worker.outputs(job))
    await others()
    assert await heavy


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (chat(chat_template="{% for number in range(1000000) %}x{% endfor %}"), "trust-request-chat-template"),
        (
            chat(chat_template_kwargs={"chat_template": "{% for number in range(1000000) %}x{% endfor %}"}),
            "trust-request-chat-template",
        ),
        (completion(prompt_embeds="AAAA"), "enable-prompt-embeds"),
        (completion(logprobs=100_000), "logprobs"),
        (chat(bad_words=[f"zq{number}" for number in range(10_000)]), "128"),
    ],
)
async def test_what_vllm_bounds_by_itself_stays_bounded(worker: Worker, job: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkerError) as caught:
        await worker.outputs(job)
    assert 400 <= caught.value.status < 500
    assert words in str(caught.value.to_json())
