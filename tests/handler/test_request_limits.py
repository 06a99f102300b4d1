"""What one request may have compiled, listed and multiplied, in whatever way the body is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from handler import jobs
from handler.errors import InvalidInput
from handler.request_limits import DEFAULT, RequestLimits
from handler.settings import ALLOWED_PATHS, WorkerSettings

MANY = [f"item number {number}" for number in range(100_000)]
LONG = "y" * 100_000
PROPERTIES = {"type": "object", "properties": {name: {"type": "string"} for name in MANY}}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "choices": ({"structured_outputs": {"choice": MANY}}, "structured_outputs"),
    "one long choice": ({"structured_outputs": {"choice": [LONG]}}, "structured_outputs"),
    "a choice of 20 kB": ({"structured_outputs": {"choice": ["y" * 20_000]}}, "structured_outputs"),
    "regex": ({"structured_outputs": {"regex": "(a|b)" * 5_000}}, "structured_outputs"),
    "grammar": ({"structured_outputs": {"grammar": f'root ::= "{LONG}"'}}, "structured_outputs"),
    "schema": ({"structured_outputs": {"json": PROPERTIES}}, "structured_outputs"),
    "schema as text": ({"structured_outputs": {"json": json.dumps(PROPERTIES)}}, "structured_outputs"),
    "structural tag": ({"structured_outputs": {"structural_tag": LONG}}, "structured_outputs"),
    "response format": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": PROPERTIES}}},
        "response_format",
    ),
    "responses": ({"input": "x", "text": {"format": {"type": "json_schema", "schema": PROPERTIES}}}, "text"),
    "forced tools": ({"tools": [{"function": {"parameters": PROPERTIES}}], "tool_choice": "required"}, "tools"),
    "tools": ({"tools": [{"function": {"name": name}} for name in MANY]}, "tools"),
    "biases": ({"logit_bias": {str(number): 1 for number in range(100_000)}}, "logit_bias"),
    "stop words": ({"stop": MANY}, "stop"),
    "bad words": ({"bad_words": MANY}, "bad_words"),
    "allowed tokens": ({"allowed_token_ids": list(range(100_000))}, "allowed_token_ids"),
    "extra arguments": ({"vllm_xargs": dict.fromkeys(MANY, "v")}, "vllm_xargs"),
    "messages": ({"messages": [{"role": "user", "content": "hi"}] * 20_000}, "messages"),
    "parts": ({"messages": [{"content": [{"type": "text", "text": "a"}] * 9_000}] * 2}, "messages"),
    "a text for the tokenizer": ({"prompt": LONG * 30}, "body"),
    "a text for the tokenizer in a list": ({"input": ["x", LONG * 30]}, "body"),
    "a conversation for the tokenizer": ({"messages": [{"role": "user", "content": LONG}] * 30}, "body"),
    "parts of text": ({"messages": [{"content": [{"type": "text", "text": LONG}] * 30}]}, "body"),
    "text of documents": ({"query": "x", "documents": [LONG] * 30}, "body"),
    "prompts": ({"prompt": ["hi"] * 100_000}, "prompt"),
    "prompts of tokens": ({"prompt": [[1]] * 100_000}, "prompt"),
    "inputs of an embedding": ({"input": MANY}, "input"),
    "documents": ({"query": "x", "documents": MANY}, "documents"),
    "prompts times n": ({"prompt": ["hi"] * 100, "n": 100}, "prompt"),
    "probabilities of prompts": ({"prompt": ["hi"] * 200, "prompt_logprobs": 1}, "prompt"),
    "probabilities of one prompt, often": ({"prompt": [5] * 1900, "n": 100, "echo": True, "logprobs": 20}, "n"),
    "answers to one chat": ({"messages": [{"role": "user", "content": "hi"}], "n": 600}, "n"),
    "prompts times n as text": ({"prompt": ["hi"] * 100, "n": "100"}, "prompt"),
    "prompts times n as a fraction": ({"prompt": ["hi"] * 100, "n": 100.0}, "prompt"),
}


@pytest.mark.parametrize(("body", "field"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_keep_others_waiting_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: ") as caught:
        DEFAULT.check(json.dumps(body).encode())
    assert caught.value.param == field


TAKEN: dict[str, dict[str, Any]] = {
    "choices": {"structured_outputs": {"choice": MANY[:700]}},
    "schema": {"structured_outputs": {"json": {"enum": MANY[:2_000]}}},
    "tools": {"tools": [{"function": {"name": name, "parameters": {}}} for name in MANY[:1_000]]},
    "a long prompt": {"prompt": LONG * 10},
    "a long conversation": {"messages": [{"role": "user", "content": LONG}] * 10},
    "a prompt in tokens": {"prompt": list(range(100_000))},
    "a batch": {"prompt": MANY[:512]},
    "a batch of texts": {"input": MANY[:2_048]},
    "an image": {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:," + LONG * 50}}]}]},
    "answers": {"messages": [], "n": 128},
    "no number": {"prompt": ["hi"] * 100, "n": "many"},
    "probabilities": {"prompt": ["hi" * 50] * 32, "prompt_logprobs": 1},
    "infinite": {"prompt": ["hi"], "n": "inf"},
    "text of a form that is not known": {"text": LONG, "response_format": "srt"},
}


@pytest.mark.parametrize("body", TAKEN.values(), ids=list(TAKEN))
def test_what_people_send_is_taken(body: dict[str, Any]) -> None:
    DEFAULT.check(json.dumps(body).encode())


@pytest.mark.parametrize("body", [None, b"", b"no json", b"[1]", b"[" * 100_000, b'{"n": NaN'])
def test_what_is_no_object_is_left_to_the_engine(body: bytes | None) -> None:
    DEFAULT.check(body)


def test_a_name_written_with_escapes_is_the_same_name() -> None:
    body = json.dumps({"prompt": ["hi"] * 100, "n": 100}).replace('"n"', '"\\u006e"').encode()
    with pytest.raises(InvalidInput, match="10000 sequences"):
        DEFAULT.check(body)


def test_the_operator_sets_the_bounds() -> None:
    names = {"MAX_CONSTRAINT_BYTES": "100", "MAX_LIST_ITEMS": "10", "MAX_SEQUENCES": "5", "MAX_TEXT_CHARACTERS": "400"}
    settings = WorkerSettings.from_environment(names)
    assert settings.request_limits == RequestLimits(100, 10, 5, 400)
    for body in (
        {"prompt": "a" * 500},
        {"stop": ["a"] * 11},
        {"prompt": ["a"] * 6},
        {"structured_outputs": {"regex": "a" * 30}},
    ):
        with pytest.raises(InvalidInput):
            settings.request_limits.check(json.dumps(body).encode())


@pytest.mark.parametrize(
    "job",
    [
        {"openai_route": "/v1/chat/completions", "openai_input": {"messages": [], "guided_choice": MANY}},
        {"route": "/v1/completions", "body": {"prompt": "x", "structured_outputs": {"choice": MANY}}},
        {"prompt": "x", "sampling_params": {"structured_outputs": {"choice": MANY}}},
        {"prompt": "x", "sampling_params": {"guided_choice": MANY}},
        {"prompts": ["x"] * 3_000},
    ],
)
def test_every_form_of_job_is_bounded(job: object) -> None:
    with pytest.raises(InvalidInput, match=r"structured_outputs|prompt"):
        jobs.parse(job, allowed_paths=ALLOWED_PATHS, max_bytes=20_000_000, request_fields=lambda path: ())
