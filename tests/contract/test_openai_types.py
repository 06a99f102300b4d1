"""The real OpenAI client's response types parse what every OpenAI route gives."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic.types import Message
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from scripts.demo_training.corpus import WEATHER_TOOL
from tests.support import Worker

CHAT = "/v1/chat/completions"
FRANCE = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 99,
}
PARIS = "The capital of France is Paris."


async def test_chat(worker: Worker) -> None:
    completion = ChatCompletion.model_validate(await worker.openai(CHAT, FRANCE))
    assert completion.choices[0].message.content == PARIS
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def test_chat_with_logprobs_and_several_choices(worker: Worker) -> None:
    body = FRANCE | {"logprobs": True, "top_logprobs": 2, "n": 2, "temperature": 1.0, "seed": 1}
    completion = ChatCompletion.model_validate(await worker.openai(CHAT, body))
    assert len(completion.choices) == 2
    assert completion.choices[0].logprobs is not None
    assert completion.choices[0].logprobs.content is not None


async def test_chat_chunks(worker: Worker) -> None:
    body = FRANCE | {"stream": True, "stream_options": {"include_usage": True}}
    events = await worker.events({"openai_route": CHAT, "openai_input": body})
    chunks = [ChatCompletionChunk.model_validate(event) for event in events]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == PARIS
    assert chunks[-1].usage is not None


async def test_tool_calls_whole_and_in_chunks(worker: Worker) -> None:
    body = FRANCE | {
        "messages": [{"role": "user", "content": "What is the weather in Berlin?"}],
        "tools": [WEATHER_TOOL],
    }
    whole = ChatCompletion.model_validate(await worker.openai(CHAT, body)).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.tool_calls is not None
    call = whole.message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Berlin"}')

    events = await worker.events({"openai_route": CHAT, "openai_input": body | {"stream": True}})
    deltas = [ChatCompletionChunk.model_validate(event).choices[0].delta for event in events]
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    assert parts[0].function is not None
    assert parts[0].function.name == "get_weather"
    assert "".join(part.function.arguments or "" for part in parts if part.function) == '{"city": "Berlin"}'


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_forced_tool_call(worker: Worker, choice: object) -> None:
    body = FRANCE | {"tools": [WEATHER_TOOL], "tool_choice": choice}
    completion = ChatCompletion.model_validate(await worker.openai(CHAT, body))
    assert completion.choices[0].message.tool_calls


async def test_structured_output(worker: Worker) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    body = FRANCE | {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}}
    completion = ChatCompletion.model_validate(await worker.openai(CHAT, body))
    assert TypeAdapter(dict[str, str]).validate_json(completion.choices[0].message.content or "") == {"name": "Ada"}


async def test_completions_and_their_chunks(worker: Worker) -> None:
    body: dict[str, Any] = {"prompt": "What is the capital of France?", "temperature": 0, "max_tokens": 99}
    completion = Completion.model_validate(await worker.openai("/v1/completions", body))
    assert completion.choices[0].text.strip() == PARIS
    events = await worker.events({"openai_route": "/v1/completions", "openai_input": body | {"stream": True}})
    for event in events[:-1]:  # OpenAI's own chunks say null here too until the last one, although its type does not
        assert event["choices"][0].pop("finish_reason") is None
        event["choices"][0]["finish_reason"] = "stop"
    assert "".join(Completion.model_validate(event).choices[0].text for event in events).strip() == PARIS


async def test_models_lists_the_model_and_its_adapters(worker: Worker) -> None:
    document = await worker.openai("/v1/models")
    models = [Model.model_validate(model) for model in document["data"]]
    assert document["object"] == "list"
    assert [model.id for model in models] == ["demo-model", "pirate"]


async def test_responses_and_their_events(worker: Worker) -> None:
    body = {"input": "What is the capital of France?", "temperature": 0, "max_output_tokens": 99}
    response = Response.model_validate(await worker.openai("/v1/responses", body))
    assert response.output_text == PARIS
    events = await worker.events({"openai_route": "/v1/responses", "openai_input": body | {"stream": True}})
    adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
    parsed = [adapter.validate_python(event) for event in events]
    assert "".join(event.delta for event in parsed if event.type == "response.output_text.delta") == PARIS
    assert parsed[-1].type == "response.completed"


async def test_anthropic_messages(worker: Worker) -> None:
    body = {"model": "demo-model", "max_tokens": 99, "temperature": 0, "messages": FRANCE["messages"]}
    message = Message.model_validate(await worker.openai("/v1/messages", body))
    assert message.content[0].type == "text"
    assert message.content[0].text == PARIS
    events = await worker.events({"openai_route": "/v1/messages", "openai_input": body | {"stream": True}})
    assert events[-1]["type"] == "message_stop"
