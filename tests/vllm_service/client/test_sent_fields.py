"""What a call sends: what was given, by its name, and the documented defaults only to RunPod's own endpoint."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import pytest

from tests.vllm_service.client.router.two_places import two
from tests.vllm_service.client.runpod_provider import runpod
from vllm_service import LLMRouter, RunPodVLLMService, errors
from vllm_service.client.payload import Payload, encoded
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, refused, says

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
DEFAULTS = {"max_tokens": 500, "temperature": 0.7}
CALLS: dict[str, Callable[..., Any]] = {
    "generate": lambda service, **options: service.generate("hi", **options),
    "generate_with_retry": lambda service, **options: service.generate_with_retry("hi", **options),
    "complete": lambda service, **options: service.complete("hi", **options),
    "chat": lambda service, **options: service.chat(MESSAGES, **options),
    "stream": lambda service, **options: read(service.stream("hi", **options)),
    "stream_chat": lambda service, **options: read(service.stream_chat(MESSAGES, **options)),
    "batch": lambda service, **options: service.batch(["hi"], **options),
    "batch_generate": lambda service, **options: service.batch_generate(["hi"], **options),
    "ensemble_generate": lambda service, **options: service.ensemble_generate("hi", ["m"], **options),
}
ENVELOPE = {"model", "prompt", "messages", "stream", "stream_options"}


async def read(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass


@asynccontextmanager
async def at(server: ScriptedProvider) -> AsyncIterator[RunPodVLLMService]:
    async with server, RunPodVLLMService(base_url=server.url, default_model="m") as service:
        yield service


def fields(request: ReceivedRequest) -> dict[str, Any]:
    return {name: value for name, value in request.json.items() if name not in ENVELOPE}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, DEFAULTS),
        ({"max_tokens": 9}, {"max_tokens": 9, "temperature": 0.7}),
        ({"max_tokens": None, "temperature": None}, {}),
        ({"temperature": 0, "stop": None, "seed": 0}, {"max_tokens": 500, "temperature": 0, "seed": 0}),
        ({"max_completion_tokens": 7}, {"max_completion_tokens": 7, "temperature": 0.7}),
    ],
)
async def test_at_runpod(call: str, given: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    server = runpod(says("fine"))
    async with at(server) as service:
        await CALLS[call](service, **given)
    assert [fields(request) for request in server.requests] == [sent]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {}),
        (DEFAULTS, DEFAULTS),
        ({"max_tokens": None}, {}),
        ({"max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ],
)
async def test_at_any_other_server(call: str, given: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
    server = ScriptedProvider(says("fine"))
    async with at(server) as service:
        await CALLS[call](service, **given)
    assert [fields(request) for request in server.requests] == [sent]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("server", [runpod(says("fine")), ScriptedProvider(says("fine"))], ids=["runpod", "other"])
async def test_two_bounds_are_refused_and_nothing_is_sent(call: str, server: ScriptedProvider) -> None:
    async with at(server) as service:
        with pytest.raises(errors.InvalidRequest, match="max_tokens, max_completion_tokens"):
            await CALLS[call](service, max_tokens=500, max_completion_tokens=7)
    assert server.requests == []


async def test_a_stream_keeps_the_stream_options_of_the_caller() -> None:
    server = runpod(says("fine"))
    async with at(server) as service:
        await read(service.stream("hi", stream_options={"continuous_usage_stats": True}, stream=False))
    sent = server.requests[0].json
    assert (sent["stream"], sent["stream_options"]) == (True, {"continuous_usage_stats": True, "include_usage": True})


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_stream_options_is_asked_without_them_from_then_on(status: int) -> None:
    def reply(request: ReceivedRequest) -> Reply:
        is_refused = "stream_options" in request.json
        return refused(status, "Extra inputs: stream_options") if is_refused else says("fine")(request)

    server = ScriptedProvider(reply)
    async with at(server) as service:
        for _ in range(2):
            stream = service.stream("hi")
            assert [text async for text in stream] == ["fine"]
    assert ["stream_options" in request.json for request in server.requests] == [True, False, False]
    async with two(own=reply) as places, LLMRouter("QUALITY", places.catalog) as router:
        for _ in range(2):
            stream = router.stream("hi")
            assert [text async for text in stream] == ["fine"]
            assert stream.answer.provider == "own"
    assert len(places.own.requests) == 3


async def test_another_refusal_of_a_stream_is_not_sent_again() -> None:
    server = ScriptedProvider(refused(400, "no such tool"))
    async with at(server) as service:
        with pytest.raises(errors.InvalidRequest, match="no such tool"):
            await read(service.stream("hi"))
    assert len(server.requests) == 1


async def test_a_call_with_a_whole_answer_refuses_to_stream() -> None:
    server = runpod(says("fine"))
    async with at(server) as service:
        with pytest.raises(errors.InvalidRequest, match="stream_chat"):
            await service.chat(MESSAGES, stream=True)
    assert server.requests == []


class Model:
    """Has what is used of pydantic's models, such as a message of the SDK."""

    def model_dump(self, **options: object) -> dict[str, Any]:
        return {"role": "assistant", "content": "earlier"}


def test_what_is_sent_is_the_json_of_the_body() -> None:
    options = {"tools": [{"type": "function"}], "seed": 10**30, "metadata": MappingProxyType({"a": ("ä", None)})}
    ask = Payload.chat([*MESSAGES, Model()], "m", options)  # type: ignore[list-item]
    earlier = {"role": "assistant", "content": "earlier"}
    expected = {"model": "m", "messages": [*MESSAGES, earlier], **options, "metadata": {"a": ["ä", None]}}
    assert json.loads(ask.content()) == expected
    assert json.loads(ask.to("other").content()) == {**expected, "model": "other"}
    streaming = {"stream": True, "stream_options": {"include_usage": True}}
    assert json.loads(ask.stream_content()) == {**expected, **streaming}
    assert json.loads(Payload.completion("hi", "m", {}).stream_content()) == {"model": "m", "prompt": "hi", **streaming}


def circle() -> dict[str, Any]:
    held: dict[str, Any] = {}
    held["inner"] = [held]
    return held


def deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ([{"content": "cut \ud83d"}], r"x\[0\]\.content", r"half of a surrogate pair \(U\+D83D\) at character 4"),
        ({"a": [1, {2}]}, r"x\.a\[1\]", "set is no JSON"),
        ({"a": b"secret"}, r"x\.a", "bytes is no JSON"),
        (float("nan"), "x", "no number nan"),
        ([float("-inf")], r"x\[0\]", "no number -inf"),
        ({(1, 2): 3}, "x", "a key is tuple"),
        ({"\ud83d": 3}, "x", "a key holds half"),
        (10**5000, "x", "too many digits"),
        (circle(), r"x\.inner\[0\]", "contains itself"),
        (deep(5000), r"x\[0\]\[0\].*\.\.\.", "nested more than 200 levels"),
    ],
    ids=["surrogate", "set", "bytes", "nan", "infinity", "tuple key", "surrogate key", "digits", "circle", "deep"],
)
def test_what_is_no_json_is_named_by_its_place_and_quoted_nowhere(value: object, path: str, reason: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=rf"^{path}: .*{reason}") as caught:
        encoded(value, "x")
    assert "secret" not in str(caught.value)
