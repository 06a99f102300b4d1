"""Whatever is wrong with a job, it gets a clear error and the engine goes on serving."""

from __future__ import annotations

from typing import Any

import pytest

from handler.errors import EngineError, InvalidInput
from tests.malformed import CHAT, MALFORMED, MESSAGES, Malformed
from tests.support import Worker


def chat(**fields: Any) -> dict[str, Any]:
    return {"openai_route": CHAT, "openai_input": {"messages": MESSAGES, "max_tokens": 4} | fields}


# What only vLLM can tell is wrong: it answers, and its status and words are kept.
REFUSED_BY_VLLM = [
    Malformed("temperature is a word", chat(temperature="hot"), "temperature"),
    Malformed("temperature below zero", chat(temperature=-1), "temperature"),
    Malformed("top_p over one", chat(top_p=2), "top_p"),
    Malformed("max_tokens is negative", chat(max_tokens=-5), "max_tokens"),
    Malformed("n is zero", chat(n=0), "n must be at least 1"),
    Malformed("messages is a string", chat(messages="Hi"), "messages"),
    Malformed("messages missing", {"openai_route": CHAT, "openai_input": {"max_tokens": 4}}, "messages"),
    Malformed("role is missing", chat(messages=[{"content": "SECRET-PROMPT"}]), "role"),
    Malformed("content is a number", chat(messages=[{"role": "user", "content": 5}]), "content"),
    Malformed("prompt over the context", chat(messages=[{"role": "user", "content": "word " * 5000}]), "2048"),
    Malformed("tool choice without tools", chat(tool_choice="required"), "tool"),
    Malformed("unusable schema", chat(response_format={"type": "json_schema"}), "json_schema"),
    Malformed("logprobs is a word", chat(logprobs="many"), "logprobs"),
    Malformed("unknown model", chat(model="nobody"), "nobody"),
    Malformed("unknown route", {"openai_route": "/v1/no/such/route", "openai_input": {"x": 1}}, "Not Found"),
    Malformed("wrong method", {"route": CHAT, "method": "GET"}, "Method Not Allowed"),
    Malformed("messages for completions", {"openai_route": "/v1/completions", "openai_input": {"x": 1}}, "prompt"),
    Malformed("tokens are words", {"route": "/detokenize", "body": {"tokens": ["a"]}}, "tokens"),
    Malformed("unknown response id", {"openai_route": "/v1/responses/resp_x"}, "resp_x"),
]


@pytest.fixture
async def still_serves(worker: Worker) -> Any:
    yield
    assert await worker.chat("What is the capital of France?") == "The capital of France is Paris."


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name)
async def test_what_the_worker_refuses(worker: Worker, case: Malformed) -> None:
    with pytest.raises(InvalidInput) as caught:
        await worker.outputs(case.job_input)
    assert case.says in caught.value.message


@pytest.mark.usefixtures("still_serves")
@pytest.mark.parametrize("case", REFUSED_BY_VLLM, ids=lambda case: case.name)
async def test_what_vllm_refuses(worker: Worker, case: Malformed) -> None:
    with pytest.raises(EngineError) as caught:
        await worker.outputs(case.job_input)
    document = caught.value.to_json()
    assert 400 <= document["status"] < 500
    assert set(document["error"]) >= {"message", "type", "code", "param"}
    assert case.says in str(document["error"])
