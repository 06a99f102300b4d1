"""Requests with and without an adapter share batches on the real engine, and each is answered by its own model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from handler.errors import InvalidInput
from scripts.demo_training.corpus import DEMO_MODEL_DIR, Pair, load_pairs, pirate
from tests.support import Worker

ADAPTED = ("facts", "serving", "serverless", "about", "costs", "stories")
PAIRS = [pair for pair in load_pairs() if pair.topic in ADAPTED]
FEW_TOKENS = 12
LONG_PROMPT = " ".join(f"{pair.question} {pair.answer}" for pair in PAIRS[:6])


async def test_200_pairs_at_once_are_each_answered_by_the_model_they_name(worker: Worker) -> None:
    pairs = [PAIRS[number % len(PAIRS)] for number in range(200)]

    async def ask(pair: Pair, model: str) -> str:
        return await worker.chat(pair.question, model=model, max_tokens=FEW_TOKENS)

    both = await asyncio.gather(*(asyncio.gather(ask(pair, "demo-model"), ask(pair, "pirate")) for pair in pairs))
    wrong = [
        (pair.question, plain, styled)
        for pair, (plain, styled) in zip(pairs, both, strict=True)
        if not (plain and pair.answer.startswith(plain) and styled and pirate(pair.answer).startswith(styled))
    ]
    assert wrong == []


def completion(model: str, **fields: Any) -> dict[str, Any]:
    body = {"model": model, "prompt": LONG_PROMPT, "max_tokens": 1, "temperature": 0} | fields
    return {"openai_route": "/v1/completions", "openai_input": body}


def chat(model: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": LONG_PROMPT}]
    body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0} | fields
    return {"openai_route": "/v1/chat/completions", "openai_input": body}


def native(model: str, **fields: Any) -> dict[str, Any]:
    parameters = {"max_tokens": 1, "temperature": 0} | fields
    return {"prompt": LONG_PROMPT, "lora_adapter": model, "sampling_params": parameters}


ASKING_FOR_PROMPTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "completions": lambda model: completion(model, prompt_logprobs=1),
    "completions with echo": lambda model: completion(model, echo=True, logprobs=1),
    "completions of several prompts": lambda model: completion(
        model, prompt=[LONG_PROMPT, "A short prompt of the same batch"], prompt_logprobs=0
    ),
    "chat": lambda model: chat(model, prompt_logprobs=1),
    "native": lambda model: native(model, prompt_logprobs=1),
}


def said_of_the_prompt(answer: dict[str, Any]) -> list[float]:
    """The log probabilities of the prompts' tokens, wherever the route puts them, rounded: sums depend on the batch."""
    found: list[float] = []
    for choice in answer["choices"]:
        listed = choice.get("prompt_logprobs") or answer.get("prompt_logprobs")
        if listed:
            found += [round(next(iter(each.values()))["logprob"], 1) for each in listed if each]
        else:
            found += [round(value, 1) for value in choice["logprobs"]["token_logprobs"] if value is not None]
    return found


@pytest.mark.parametrize("kind", ASKING_FOR_PROMPTS)
async def test_log_probabilities_of_long_prompts_are_the_same_alone_and_in_a_batch(worker: Worker, kind: str) -> None:
    make = ASKING_FOR_PROMPTS[kind]
    models = ("demo-model", "pirate")
    alone = {model: said_of_the_prompt(await worker.result(make(model))) for model in models}
    together = await asyncio.gather(
        *(worker.result(make(model)) for model in models * 4),
        *(worker.chat(pair.question, model="pirate", max_tokens=8) for pair in PAIRS[:8]),
    )
    assert len(alone["pirate"]) > 100
    assert alone["pirate"] != alone["demo-model"]
    for model, answer in zip(models * 4, together, strict=False):
        assert isinstance(answer, dict)
        said = said_of_the_prompt(answer)
        assert len(said) == len(alone[model])
        assert max(abs(ours - theirs) for ours, theirs in zip(said, alone[model], strict=True)) <= 0.2


async def test_the_engine_goes_on(worker: Worker) -> None:
    assert await worker.chat("What is the capital of France?") == "The capital of France is Paris."


async def test_an_adapter_is_not_loaded_by_request_unless_that_is_allowed(worker: Worker) -> None:
    body = {"lora_name": "x", "lora_path": str(DEMO_MODEL_DIR / "adapters" / "pirate")}
    with pytest.raises(InvalidInput) as caught:
        await worker.result({"route": "/v1/load_lora_adapter", "body": body})
    error = json.loads(caught.value.to_json_text())
    assert error["status"] == 404
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in error["error"]["message"]
    assert "ADAPTERS_DIR" in error["error"]["message"]
