"""The client tells the router of a request what the gateway would have read of its JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vllm_service.client.payload import Payload
from vllm_service.client.router.llm_router import facts_of_chat
from vllm_service.domain.media import TOKENS_PER_IMAGE
from vllm_service.domain.reported_usage import MOST_TOKENS
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import estimated_prompt_tokens
from vllm_service.gateway.operations import CHAT
from vllm_service.gateway.request_body import read

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Grüße 👋 " * 40}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def image(size_bytes: int) -> list[dict[str, Any]]:
    inlined = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size_bytes}}
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, inlined]}]


def facts(messages: list[dict[str, Any]], **options: Any) -> RequestFacts:
    return facts_of_chat(Payload.chat(messages, "m", options), "COST", stream=False)


@pytest.mark.parametrize("messages", [HELLO, image(50_000), HELLO + image(9_000) + image(9_000)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 500, "max_completion_tokens": 7, "n": 3},
        {"max_tokens": 500, "tools": [TOOL], "temperature": 0.5},
        {"max_tokens": None, "n": 2},
        {"max_tokens": 0},
    ],
)
def test_it_is_what_the_gateway_reads(messages: list[dict[str, Any]], options: dict[str, Any]) -> None:
    body = json.dumps(Payload.chat(messages, "m", options).body, ensure_ascii=False, separators=(",", ":")).encode()
    fields, told = read(body), facts(messages, **options)
    assert told.prompt_tokens == estimated_prompt_tokens(body)
    assert told.max_tokens == fields.longest_answer_tokens(CHAT, fields.written_answers(CHAT))
    assert told.choices == fields.written_answers(CHAT)
    assert told.prefix == fields.prefix


def test_turns_of_a_conversation_have_a_beginning_in_common_once_it_is_long_enough() -> None:
    long: list[dict[str, Any]] = [{"role": "system", "content": "Be brief. " * 150}]
    first = facts([*long, {"role": "user", "content": "Hi"}])
    second = facts([*long, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    assert first.prefix == second.prefix != 0
    assert facts([{"role": "system", "content": "Be long. " * 150}]).prefix not in (first.prefix, 0)
    assert facts([{"role": "user", "content": "Hi"}]).prefix == 0


def test_the_bytes_of_an_inlined_image_are_no_text() -> None:
    small, large = facts(image(20_000)).prompt_tokens, facts(image(2_000_000)).prompt_tokens
    assert small == large
    assert TOKENS_PER_IMAGE < large < TOKENS_PER_IMAGE + 100


def test_every_choice_counts() -> None:
    assert facts(HELLO, max_completion_tokens=7, max_tokens=500, n=3).max_tokens == 1500


@pytest.mark.parametrize("wrong", ["5", [5], {}])
def test_nonsense_is_the_providers_to_refuse(wrong: object) -> None:
    assert facts(HELLO, max_tokens=wrong, n=wrong).max_tokens is None


@pytest.mark.parametrize("bound", [10**30, 10**400, -5, 0.5, True])
def test_a_bound_that_none_can_have_is_no_error_of_ours(bound: float) -> None:
    told = facts(HELLO, max_tokens=bound).max_tokens
    assert told is None or 0 <= told <= MOST_TOKENS
