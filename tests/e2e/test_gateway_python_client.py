"""The real AsyncOpenAI through the gateway: to real vLLM behind an emulated endpoint, and to a hosted provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from tests.e2e.emulated import API_KEY
from tests.e2e.road import HOSTED, HOSTED_KEY, OWN, Road, opened_road
from tests.e2e.test_openai_python_client import FRANCE, LONG_TOKENS, PARIS, TOKENS, WEATHER, Person, asked

BOTH = pytest.mark.parametrize("model", [OWN, HOSTED])


@pytest.fixture(scope="module")
async def road(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Road]:
    async with opened_road(tmp_path_factory.mktemp("road")) as road:
        yield road


@pytest.fixture(scope="module")
async def client(road: Road) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=road.gateway.url, api_key=road.key, max_retries=0) as client:
        yield client


async def test_real_vllm_gives_the_trained_answer_also_under_an_alias(client: AsyncOpenAI) -> None:
    for model in (OWN, "gpt-3.5-turbo"):
        completion = await client.chat.completions.create(model=model, messages=asked(FRANCE), temperature=0)
        assert completion.choices[0].message.content == PARIS
        assert completion.usage is not None


async def test_a_conversation_that_goes_on_says_how_much_of_it_the_worker_had_cached(client: AsyncOpenAI) -> None:
    opening: list[Any] = [{"role": "system", "content": "Answer in one word. " * 60}, *asked(FRANCE)]
    follow_up = [*opening, {"role": "assistant", "content": PARIS}, *asked("And of Spain?")]
    cached, prompts = [], []
    for messages in (opening, follow_up):
        stream = await client.chat.completions.create(
            model=OWN, messages=messages, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        usage = [chunk.usage async for chunk in stream][-1]
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached.append(usage.prompt_tokens_details.cached_tokens or 0)
        prompts.append(usage.prompt_tokens)
    assert cached[0] < 0.5 * prompts[0]
    assert 0.5 * prompts[0] < cached[1] < prompts[1]  # whole blocks only: 128 tokens on a CPU


@BOTH
async def test_a_stream_adds_up_to_the_whole_answer_and_its_usage(client: AsyncOpenAI, model: str) -> None:
    whole = await client.chat.completions.create(model=model, messages=asked(FRANCE), temperature=0)
    stream = await client.chat.completions.create(
        model=model, messages=asked(FRANCE), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@BOTH
async def test_answers_say_what_they_cost_and_how_long_they_took(client: AsyncOpenAI, model: str) -> None:
    completion = await client.chat.completions.create(model=model, messages=asked(FRANCE), temperature=0)
    extra = completion.model_extra or {}
    costs = {"vllm_cost_usd", "openai_cost_usd", "savings_usd", "savings_percentage", "is_estimate", "cost_basis"}
    assert set(extra["cost_info"]) == costs
    assert extra["performance_info"]["provider"] == ("own" if model == OWN else "hosted")
    assert extra["performance_info"]["quality_score"] is None
    if model == HOSTED:
        usage = completion.usage
        assert usage is not None
        cached = usage.prompt_tokens_details.cached_tokens or 0 if usage.prompt_tokens_details else 0
        millionths = (usage.prompt_tokens - cached) * Decimal("0.15") + cached * Decimal("0.075")
        millionths += usage.completion_tokens * Decimal("0.6")
        assert Decimal(str(extra["cost_info"]["vllm_cost_usd"])) == millionths / 1_000_000


@BOTH
async def test_annotations_can_be_left_out(client: AsyncOpenAI, model: str) -> None:
    completion = await client.chat.completions.create(
        model=model, messages=asked(FRANCE), extra_headers={"x-annotate": "off"}
    )
    assert not {"cost_info", "performance_info"} & set(completion.model_extra or {})


@BOTH
async def test_a_forced_tool_is_called_whole_and_streamed(client: AsyncOpenAI, model: str) -> None:
    completion = await client.chat.completions.create(
        model=model, messages=asked(FRANCE), tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=99
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"
    async with client.chat.completions.stream(
        model=model, messages=asked(FRANCE), tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=99
    ) as stream:
        final = await stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls or []
    assert isinstance(streamed, ChatCompletionMessageFunctionToolCall)
    assert streamed.function.name == "get_weather"


@BOTH
async def test_structured_output_parses_into_the_given_model(client: AsyncOpenAI, model: str) -> None:
    completion = await client.chat.completions.parse(
        model=model, messages=asked(FRANCE), response_format=Person, temperature=0, max_tokens=99
    )
    assert isinstance(completion.choices[0].message.parsed, Person)


@BOTH
async def test_completions_and_responses_whole_and_streamed(client: AsyncOpenAI, model: str) -> None:
    text = await client.completions.create(model=model, prompt=FRANCE, temperature=0, max_tokens=99)
    pieces = await client.completions.create(model=model, prompt=FRANCE, temperature=0, max_tokens=99, stream=True)
    assert "".join([piece.choices[0].text async for piece in pieces if piece.choices]) == text.choices[0].text
    response = await client.responses.create(model=model, input=FRANCE, temperature=0, max_output_tokens=99)
    events = await client.responses.create(model=model, input=FRANCE, temperature=0, max_output_tokens=99, stream=True)
    last = [event async for event in events][-1]
    assert last.type == "response.completed"
    assert last.response.output_text == response.output_text


async def test_embeddings_come_from_who_has_them(client: AsyncOpenAI) -> None:
    embeddings = await client.embeddings.create(model=HOSTED, input=[FRANCE, PARIS], encoding_format="float")
    assert [len(item.embedding) for item in embeddings.data] == [64, 64]
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        await client.embeddings.create(model=OWN, input=FRANCE)


async def test_models_are_those_of_the_configuration(client: AsyncOpenAI) -> None:
    assert {model.id async for model in client.models.list()} >= {OWN, HOSTED, "pirate", "short"}


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("fields", "expected", "code", "named"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "NOT_FOUND_404", "nobody"),
        ({"temperature": -1}, openai.BadRequestError, "INVALID_REQUEST_400", "temperature"),
        ({"messages": asked("word " * 3000)}, openai.BadRequestError, "context_length_exceeded", "2048"),
        ({"messages": "no list"}, openai.BadRequestError, "INVALID_REQUEST_400", "messages"),
    ],
    ids=["unknown model", "bad temperature", "prompt over the context", "malformed"],
)
async def test_a_mistake_raises_the_exception_of_its_status(
    client: AsyncOpenAI,
    *,
    fields: dict[str, Any],
    expected: type[openai.APIStatusError],
    code: str,
    named: str,
    is_stream: bool,
) -> None:
    body: dict[str, Any] = {"model": OWN, "messages": asked(FRANCE), "stream": is_stream}
    with pytest.raises(expected) as caught:
        await client.chat.completions.create(**body | fields)
    assert caught.value.code == code
    assert named in caught.value.message
    assert caught.value.request_id


async def test_a_wrong_key_is_an_authentication_error(client: AsyncOpenAI) -> None:
    for key in ("wrong", API_KEY, HOSTED_KEY):
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.with_options(api_key=key).chat.completions.create(model=OWN, messages=asked(FRANCE))
        assert caught.value.code == "UNAUTHORIZED_401"


@pytest.mark.parametrize(
    ("faults", "expected", "code"),
    [
        ({"rate_limit_share": 1, "retry_after_seconds": 7}, openai.RateLimitError, "RATE_LIMIT_429"),
        ({"error_500_share": 1}, openai.InternalServerError, "UPSTREAM_502"),
        ({"error_503_share": 1}, openai.InternalServerError, "MODEL_503"),
        ({"reset_share": 1}, openai.InternalServerError, "UPSTREAM_502"),
        ({"garbage_share": 1}, openai.InternalServerError, "UPSTREAM_502"),
    ],
)
async def test_a_provider_in_trouble_raises_the_right_class(
    road: Road, client: AsyncOpenAI, faults: dict[str, Any], expected: type[openai.APIStatusError], code: str
) -> None:
    await road.inject(**faults)
    model = "limited" if "retry_after_seconds" in faults else HOSTED
    try:
        with pytest.raises(expected) as caught:
            await client.chat.completions.create(model=model, messages=asked(FRANCE))
    finally:
        await road.inject()
    assert caught.value.code == code
    if "retry_after_seconds" in faults:
        assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("cut", ["close", "reset", "clean", "error"])
async def test_a_stream_that_is_cut_never_ends_as_if_it_were_whole(road: Road, client: AsyncOpenAI, cut: str) -> None:
    await road.inject(cut_share=1, cut_after_events=4, cut=cut)
    try:
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(model=HOSTED, messages=asked(FRANCE), stream=True):
                pass
    finally:
        await road.inject()


async def test_closing_a_stream_stops_the_engine_and_leaves_its_row(road: Road, client: AsyncOpenAI) -> None:
    tokens = await road.endpoint.measure(TOKENS)
    stream = await client.chat.completions.create(
        model=OWN, messages=asked(FRANCE), max_tokens=LONG_TOKENS, stream=True, extra_body={"ignore_eos": True}
    )
    request_id = stream.response.headers["x-request-id"]
    async with aclosing(stream):
        await anext(stream)
    await road.endpoint.until_free()
    await client.chat.completions.create(model=OWN, messages=asked(FRANCE))  # an engine at rest says nothing new
    assert await road.endpoint.measure(TOKENS) < tokens + LONG_TOKENS * 0.9
    assert await road.endpoint.measure("vllm:num_requests_running") == 0
    row = await road.row(request_id)
    assert row["outcome"] == "cancelled"


async def test_the_ledger_holds_every_call_and_no_word_of_any(road: Road, client: AsyncOpenAI) -> None:
    secret = "zebra-crossing-canary"
    completion = await client.chat.completions.with_raw_response.create(model=HOSTED, messages=asked(secret))
    request_id = completion.headers["x-request-id"]
    row = await road.row(request_id)
    usage = completion.parse().usage
    assert usage is not None
    assert (row["organisation"], row["outcome"], row["provider"]) == ("acme", "completed", "hosted")
    assert (int(row["prompt_tokens"]), int(row["completion_tokens"])) == (usage.prompt_tokens, usage.completion_tokens)
    for place in (str(await road.ledger()), (road.gateway.directory / "log").read_text()):
        for word in (secret, road.key, API_KEY, HOSTED_KEY, PARIS):
            assert word not in place
