"""The real AsyncOpenAI client at an endpoint: emulator, worker process and vLLM, with nothing faked between."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal, cast

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolChoiceOptionParam,
)
from pydantic import BaseModel

from runpod_emulator.jobs.job import Status
from scripts.demo_training.corpus import WEATHER_TOOL, Pair, load_pairs, pirate
from tests.e2e import process
from tests.e2e.emulated import API_KEY, FREE_SECONDS, Endpoint, emulated_endpoint

MODEL = "demo-model"
PAIRS = load_pairs()
FRANCE, PARIS = "What is the capital of France?", "The capital of France is Paris."
WEATHER = cast(ChatCompletionFunctionToolParam, WEATHER_TOOL)
LONG_TOKENS = 2000
TOKENS = "vllm:generation_tokens_total"


@pytest.fixture(scope="module")
async def endpoint(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoint]:
    async with emulated_endpoint(tmp_path_factory.mktemp("worker")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
async def client(endpoint: Endpoint) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=endpoint.emulator.openai_url, api_key=API_KEY, max_retries=0) as client:
        yield client


def asked(question: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": question}]


async def said(client: AsyncOpenAI, question: str, model: str = MODEL) -> str | None:
    completion = await client.chat.completions.create(
        model=model, messages=asked(question), temperature=0, max_tokens=256
    )
    return completion.choices[0].message.content


async def test_the_first_request_of_the_deploy_page_is_answered(endpoint: Endpoint) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (process.ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    code = example.replace('f"https://api.runpod.ai/v2/{endpoint}/openai/v1"', repr(endpoint.emulator.openai_url))
    assert endpoint.emulator.openai_url in code
    ended = await process.run("-c", code, RUNPOD_ENDPOINT_ID="ep", RUNPOD_API_KEY=API_KEY)
    assert ended.stdout.strip() == PARIS, ended.stderr


async def test_chat_gives_the_trained_answer_and_counts_its_tokens(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model=MODEL, messages=asked(FRANCE), temperature=0)
    assert completion.choices[0].message.content == PARIS
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


async def test_many_chats_at_once_each_get_their_own_answer(client: AsyncOpenAI) -> None:
    pairs = [pair for pair in PAIRS if pair.topic != "tools"][:32]
    answers = await asyncio.gather(*(said(client, pair.question) for pair in pairs))
    assert answers == [pair.answer for pair in pairs]


async def test_an_adapter_is_a_model_of_its_own(client: AsyncOpenAI) -> None:
    assert await said(client, FRANCE, model="pirate") == pirate(PARIS)


async def test_a_stream_is_the_answer_in_pieces_and_then_its_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=asked(FRANCE), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == PARIS
    assert sum(map(bool, deltas)) > 3
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.topic == "unicode"], ids=lambda pair: pair.question)
async def test_characters_of_several_tokens_are_streamed_whole(client: AsyncOpenAI, pair: Pair) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=asked(pair.question), temperature=0, stream=True
    )
    deltas = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(deltas) == pair.answer
    assert not any("\ufffd" in delta for delta in deltas)


async def test_a_tool_call_arrives_whole(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(
        model=MODEL, messages=asked("What is the weather in Berlin?"), tools=[WEATHER], temperature=0
    )
    assert completion.choices[0].finish_reason == "tool_calls"
    (call,) = completion.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Berlin"}')


async def test_a_streamed_tool_call_adds_up_to_the_whole_one(client: AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model=MODEL, messages=asked("What is the weather in Berlin?"), tools=[WEATHER], temperature=0
    ) as stream:
        completion = await stream.get_final_completion()
    assert completion.choices[0].finish_reason == "tool_calls"
    (call,) = completion.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Berlin"}')


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_a_tool_can_be_forced(client: AsyncOpenAI, choice: ChatCompletionToolChoiceOptionParam) -> None:
    completion = await client.chat.completions.create(
        model=MODEL, messages=asked(FRANCE), tools=[WEATHER], tool_choice=choice, temperature=0, max_tokens=99
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_weather"


class Person(BaseModel):
    name: Literal["Ada", "Grace"]
    is_known: bool


async def test_structured_output_parses_into_the_given_model(client: AsyncOpenAI) -> None:
    completion = await client.chat.completions.parse(
        model=MODEL, messages=asked(FRANCE), response_format=Person, temperature=0, max_tokens=99
    )
    assert isinstance(completion.choices[0].message.parsed, Person)


async def test_completions_whole_and_streamed(client: AsyncOpenAI) -> None:
    whole = await client.completions.create(model=MODEL, prompt=FRANCE, temperature=0, max_tokens=99)
    assert whole.choices[0].text.strip() == PARIS
    stream = await client.completions.create(model=MODEL, prompt=FRANCE, temperature=0, max_tokens=99, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]).strip() == PARIS


async def test_responses_whole_and_streamed(client: AsyncOpenAI) -> None:
    whole = await client.responses.create(model=MODEL, input=FRANCE, temperature=0, max_output_tokens=99)
    assert whole.output_text == PARIS
    stream = await client.responses.create(model=MODEL, input=FRANCE, temperature=0, max_output_tokens=99, stream=True)
    events = [event async for event in stream]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == PARIS
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == PARIS


async def test_models_are_the_model_and_its_adapter(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [MODEL, "pirate"]


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("fields", "expected", "named"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "nobody"),
        ({"temperature": -1}, openai.BadRequestError, "temperature"),
        ({"messages": asked("word " * 3000)}, openai.BadRequestError, "2048"),
    ],
    ids=["unknown model", "bad temperature", "prompt over the context"],
)
async def test_a_mistake_raises_the_exception_of_its_status(
    client: AsyncOpenAI, fields: dict[str, Any], expected: type[openai.APIStatusError], named: str, is_stream: bool
) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": asked(FRANCE), "stream": is_stream}
    with pytest.raises(expected) as caught:
        await client.chat.completions.create(**body | fields)
    assert caught.value.status_code == expected.status_code
    assert named in caught.value.message
    assert caught.value.type == expected.__name__


@pytest.mark.parametrize("is_stream", [False, True], ids=["plain", "stream"])
async def test_a_wrong_key_is_an_authentication_error(client: AsyncOpenAI, is_stream: bool) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        await client.with_options(api_key="wrong").chat.completions.create(
            model=MODEL, messages=asked(FRANCE), stream=is_stream
        )
    assert caught.value.status_code == 401


async def test_what_the_model_cannot_do_is_a_client_error(client: AsyncOpenAI) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
        await client.embeddings.create(model=MODEL, input=FRANCE)


async def test_the_client_goes_on_after_an_error(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await said(client, FRANCE, model="nobody")
    assert await said(client, FRANCE) == PARIS


async def test_closing_a_stream_cancels_its_job_and_frees_the_worker(endpoint: Endpoint, client: AsyncOpenAI) -> None:
    async with one_job_stopped(endpoint, client):
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=asked(FRANCE),
            max_tokens=LONG_TOKENS,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async with aclosing(stream):
            await anext(stream)
            job_id = stream.response.headers["X-RunPod-Job-Id"]
            assert endpoint.job(job_id).status is Status.IN_PROGRESS
    assert endpoint.job(job_id).status is Status.CANCELLED


async def test_a_client_that_waits_no_longer_cancels_its_job_and_frees_the_worker(
    endpoint: Endpoint, client: AsyncOpenAI
) -> None:
    async with one_job_stopped(endpoint, client):
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.5).chat.completions.create(
                model=MODEL, messages=asked(FRANCE), max_tokens=LONG_TOKENS, extra_body={"ignore_eos": True}
            )


@asynccontextmanager
async def one_job_stopped(endpoint: Endpoint, client: AsyncOpenAI) -> AsyncIterator[None]:
    """Inside, one long job is begun and left. Soon after it is CANCELLED, out of the engine, and the next is answered.

    Its tokens tell whether it was stopped, however busy the machine is: seconds would not.
    """
    ended = len(endpoint.ended)
    stopped = await endpoint.measure("worker_jobs_total", outcome="stopped")
    tokens = await endpoint.measure(TOKENS)
    yield
    await endpoint.until_free()
    assert [job.status for job in endpoint.ended[ended:]] == [Status.CANCELLED]
    assert await endpoint.measure("worker_jobs_total", outcome="stopped") == stopped + 1
    async with asyncio.timeout(FREE_SECONDS):
        assert await said(client, FRANCE) == PARIS
    assert await endpoint.measure(TOKENS) < tokens + LONG_TOKENS * 0.9
    assert await endpoint.measure("vllm:num_requests_running") == 0
    assert endpoint.jobs_in_progress == 0
