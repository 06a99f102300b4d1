"""Emulated hosted providers through the real OpenAI client: answers, streams, tools, schemas, keys and errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import jsonschema_rs
import openai
import pytest

from runpod_emulator import Emulator, EndpointSettings, HostedModel, HostedProviders, HostedSettings
from runpod_emulator.hosted import count_tokens, expected_answer
from tests.waiting import until

KEY = "provider-key"
MODEL = HostedModel(
    id="small",
    input_usd=Decimal("0.15"),
    output_usd=Decimal("0.60"),
    cached_input_usd=Decimal("0.075"),
    reasoning_tokens=3,
    context_length=1000,
)
PROVIDERS = (
    HostedSettings(name="one", models=(MODEL,), api_key=KEY, cached_share=0.5),
    HostedSettings(name="silent", usage_place="nowhere"),
    *(HostedSettings(name=place, usage_place=place) for place in ("last_choice", "x_groq", "every_chunk")),
    HostedSettings(name="eager", usage_unasked=True),
    HostedSettings(name="paced", tokens_per_second=20, models=(MODEL,)),
    HostedSettings(name="paced-whole", tokens_per_second=20, models=(MODEL,), bills_whole_answer=True),
)
PROMPT = "What is the capital of France?"
CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": PROMPT}]}
EMULATED = CHAT | {"model": "emulated-model"}
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 3}},
                "required": ["city", "days"],
            },
        },
    }
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 8},
        "kind": {"enum": ["a", "b"]},
        "share": {"type": "number", "minimum": 0, "exclusiveMaximum": 0.5},
        "even": {"type": "integer", "multipleOf": 2, "exclusiveMinimum": 4},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "place": {"$ref": "#/$defs/place"},
        "maybe": {"type": ["string", "null"]},
    },
    "required": ["name", "kind", "share", "even", "tags", "next", "place", "maybe"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
}


@pytest.fixture
async def hosted() -> AsyncIterator[HostedProviders]:
    async with HostedProviders(PROVIDERS) as hosted:
        yield hosted


@pytest.fixture
async def client(hosted: HostedProviders) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(hosted, "one") as client:
        yield client


def client_of(hosted: HostedProviders, name: str, key: str = KEY) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=hosted.base_url(name), api_key=key, max_retries=0)


async def ask(hosted: HostedProviders, path: str) -> Any:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{hosted.origin}/hosted/{path}")).json()


async def test_a_chat_is_a_function_of_its_prompt(client: openai.AsyncOpenAI) -> None:
    first, again = [await client.chat.completions.create(**CHAT) for _ in range(2)]
    assert first.choices == again.choices
    assert first.choices[0].message.content == expected_answer(PROMPT)
    assert first.choices[0].finish_reason == "stop"
    assert expected_answer(PROMPT) != expected_answer(PROMPT + "?")


async def test_usage_and_the_bill_agree_to_the_last_digit(hosted: HostedProviders, client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**CHAT, extra_headers={"x-request-id": "mine"})
    usage = answer.usage
    assert usage
    assert usage.prompt_tokens == count_tokens(PROMPT) == 8
    assert usage.completion_tokens == 48 + 3
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.cached_tokens == 4
    assert usage.completion_tokens_details
    assert usage.completion_tokens_details.reasoning_tokens == 3
    bill = await ask(hosted, "one/bill")
    assert Decimal(bill["usd"]) == (4 * Decimal("0.15") + 4 * Decimal("0.075") + 51 * Decimal("0.60")) / 1_000_000
    (line,) = bill["lines"]
    assert (line["id"], line["request_id"], line["outcome"]) == (answer.id, "mine", "completed")


async def test_a_stream_says_the_same_and_ends_with_usage_when_asked(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == expected_answer(PROMPT)
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 51
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_without_the_option_has_no_usage(client: openai.AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
    assert text_of(chunks) == expected_answer(PROMPT)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_providers_put_usage_where_they_like(hosted: HostedProviders) -> None:
    async def usages(name: str, **fields: Any) -> list[Any]:
        async with client_of(hosted, name) as client:
            stream = await client.chat.completions.create(**EMULATED, stream=True, **fields)
            chunks = [chunk.model_dump() async for chunk in stream]
        return [chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage") for chunk in chunks]

    asked = {"stream_options": {"include_usage": True}}
    assert not any(await usages("silent", **asked))
    assert [bool(usage) for usage in await usages("last_choice", **asked)] == [False] * 49 + [True]
    assert [bool(usage) for usage in await usages("x_groq", **asked)] == [False] * 49 + [True]
    assert [usage["completion_tokens"] for usage in await usages("every_chunk", **asked)] == [*range(49), 48, 48]
    assert (await usages("eager"))[-1]["completion_tokens"] == 48


async def test_a_limit_shortens_the_answer_and_says_so(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**CHAT, max_completion_tokens=5, n=2)
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 2
    assert [choice.message.content for choice in answer.choices] == [expected_answer(PROMPT, 5, n) for n in (0, 1)]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_forced_tool_is_called_with_arguments_that_fit(client: openai.AsyncOpenAI, choice: Any) -> None:
    fields: dict[str, Any] = {**CHAT, "tools": TOOLS, "tool_choice": choice}
    (answer,) = (await client.chat.completions.create(**fields)).choices
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    jsonschema_rs.validate(TOOLS[0]["function"]["parameters"], json.loads(call.function.arguments))
    async with client.chat.completions.stream(**fields) as stream:
        final = await stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls or []
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)


async def test_a_tool_that_may_be_called_is_not(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(**CHAT, tools=TOOLS)
    assert answer.choices[0].message.content == expected_answer(PROMPT)


async def test_structured_output_validates(client: openai.AsyncOpenAI) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    answer = await client.chat.completions.create(**CHAT, response_format=wanted)
    jsonschema_rs.validate(SCHEMA, json.loads(answer.choices[0].message.content or ""))
    form: Any = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    response = await client.responses.create(model="small", input=PROMPT, text=form)
    jsonschema_rs.validate(SCHEMA, json.loads(response.output_text))


async def test_a_schema_without_an_end_is_refused(client: openai.AsyncOpenAI) -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": endless}}
    with pytest.raises(openai.BadRequestError, match="without an end"):
        await client.chat.completions.create(**CHAT, response_format=wanted)


async def test_completions(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="small", prompt=PROMPT, max_tokens=7)
    assert answer.choices[0].text == expected_answer(PROMPT, 7)
    stream = await client.completions.create(model="small", prompt=PROMPT, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == expected_answer(PROMPT)


async def test_responses(client: openai.AsyncOpenAI) -> None:
    answer = await client.responses.create(model="small", input=PROMPT)
    assert answer.output_text == expected_answer(PROMPT)
    assert answer.usage
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (8, 51)
    async with client.responses.stream(model="small", input=PROMPT) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == expected_answer(PROMPT)
    assert final.usage == answer.usage
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_responses_call_tools(client: openai.AsyncOpenAI) -> None:
    tool: Any = {"type": "function", **TOOLS[0]["function"], "strict": True}
    async with client.responses.stream(model="small", input=PROMPT, tools=[tool], tool_choice="required") as stream:
        final = await stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    jsonschema_rs.validate(tool["parameters"], json.loads(call.arguments))


async def test_embeddings_differ_by_text_only(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="small", input=["a", "b", "a"], dimensions=16)
    first, second, third = (item.embedding for item in answer.data)
    assert first == third != second
    assert len(first) == 16
    assert sum(part * part for part in first) == pytest.approx(1, abs=1e-6)
    floats = await client.embeddings.create(model="small", input="a", dimensions=16, encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(first, abs=1e-6)


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["small"]
    assert (await client.models.retrieve("small")).owned_by == "one"


async def test_refusals_become_the_clients_own_exceptions(hosted: HostedProviders, client: openai.AsyncOpenAI) -> None:
    stranger = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError) as unknown:
        await stranger.chat.completions.create(**CHAT)
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(**CHAT | {"model": "huge"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
        await client.chat.completions.create(**CHAT, max_completion_tokens=0)
    with pytest.raises(openai.BadRequestError) as long:
        await client.chat.completions.create(model="small", messages=[{"role": "user", "content": "x" * 4000}])
    assert long.value.code == "context_length_exceeded"
    stats = await ask(hosted, "one/stats")
    assert stats["statuses"] == {"400": 2, "401": 1, "404": 1}
    assert (await ask(hosted, "one/bill"))["usd"] == "0"


@pytest.mark.parametrize("name", ["paced", "paced-whole"])
async def test_a_client_that_leaves_is_counted_and_pays_for_what_was_made_or_for_all(
    hosted: HostedProviders, name: str
) -> None:
    async with client_of(hosted, name) as client:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
    meter = hosted.providers[name].meter
    await until(lambda: meter.counts["cancelled"] == 1)
    (line,) = meter.lines
    assert line.outcome == "cancelled"
    assert line.completion_tokens == 51 if name == "paced-whole" else 3 < line.completion_tokens < 51
    assert meter.counts["in_flight"] == 0


async def test_providers_answer_beside_an_emulated_runpod() -> None:
    async with (
        Emulator(hosted=[HostedSettings(name="beside")]) as emulator,
        openai.AsyncOpenAI(base_url=emulator.hosted_url("beside"), api_key="any") as client,
    ):
        answer = await client.chat.completions.create(**EMULATED)
    assert answer.choices[0].message.content == expected_answer(PROMPT)


def test_two_providers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        HostedProviders([HostedSettings(name="a"), HostedSettings(name="a")])


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_an_integral_float_is_a_whole_number() -> None:
    body = {"model": "emulated-model", "messages": [{"role": "user", "content": "Hi"}]}
    async with Emulator(EndpointSettings(), None, hosted=[HostedSettings(name="one")]) as emulator:
        url = f"{emulator.hosted_url('one')}/chat/completions"
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.post(url, json=body | {"max_tokens": 5.0, "n": 2.0})
            assert answer.json()["usage"]["completion_tokens"] == 10
            for wrong in ({"max_tokens": 5.5}, {"max_tokens": True}, {"n": 1.5}):
                assert (await client.post(url, json=body | wrong)).status_code == 400
