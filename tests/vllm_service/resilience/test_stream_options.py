"""Providers that refuse `stream_options`: found out once, by both doors, without a failure of anybody."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.vllm_service.gateway.asking import MESSAGES
from tests.vllm_service.gateway.running import catalog_of, running
from tests.vllm_service.resilience.doors import DOORS, TOUCHY, Opens, Setting, Verdict
from vllm_service.domain.breakers import BreakerState
from vllm_service.domain.stream_options import StreamOptionsSupport
from vllm_service.testing import ReceivedRequest, Reply, ScriptedProvider, chat, chat_stream, refused, whole

WORDS: dict[str, Reply] = {
    "400 that names it": refused(400, "Unrecognized request argument supplied: stream_options"),
    "400 by param": refused(400, "not supported", param="stream_options"),
    "400 with a code of its own": refused(400, "include_usage is unknown", code="unsupported_parameter"),
    "400 that names nothing": refused(400, "Extra inputs are not permitted"),
    "400 without a body": whole(b"", 400),
    "422 of FastAPI": whole({"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs", "input": {}}]}, 422),
    "an error within a 200": whole({"error": {"message": "stream_options is not allowed", "code": 400}}),
}
ANSWERED = Verdict("answered", 200, None, "provider-1", "sound", 1)


@dataclass
class Strict:
    """A provider that refuses `stream_options`, and notes how each request came."""

    refusal: Reply
    had_options: list[bool] = field(default_factory=list)

    def __call__(self, request: ReceivedRequest) -> Reply:
        if not request.is_stream:
            return chat("sound")
        self.had_options.append("stream_options" in request.json)
        return self.refusal if self.had_options[-1] else chat_stream("sound", usage=None)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("words", WORDS)
async def test_they_are_sent_once_and_the_same_provider_answers_without(words: str, door: str) -> None:
    if (words, door) == ("an error within a 200", "LLMRouter"):
        words = "400 that names it"  # the client opens a stream by its status
    strict = Strict(WORDS[words])
    async with asyncio.timeout(20), DOORS[door](lambda: [strict], Setting(breakers=TOUCHY)) as world:
        assert [await world.door.ask(stream=True) for _ in range(3)] == [ANSWERED] * 3
        assert (await world.door.ask(stream=False)).text == "sound"
        assert strict.had_options == [True, False, False, False]
        assert (world.breaker_states, world.in_flight) == ((BreakerState.CLOSED,), 0)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_a_mistake_of_the_callers_teaches_nothing(door: Opens) -> None:
    """It is refused without them as well. Once a stream with them was answered, it is not even tried without."""
    bad = refused(400, "Unknown role")
    replies = iter([bad, bad, chat_stream("sound"), bad])
    had_options: list[bool] = []

    def script(request: ReceivedRequest) -> Reply:
        had_options.append("stream_options" in request.json)
        return next(replies)

    async with asyncio.timeout(20), door(lambda: [script], Setting()) as world:
        verdicts = [await world.door.ask(stream=True) for _ in range(3)]
    assert [verdict.status for verdict in verdicts] == [400, 200, 400]
    assert had_options == [True, False, True, True]


@pytest.mark.parametrize(("switch", "had_options", "status"), [(True, [True], 400), (False, [False], 200)])
async def test_the_switch_decides_it_without_trying(switch: bool, had_options: list[bool], status: int) -> None:
    strict = Strict(WORDS["400 that names it"])
    async with (
        ScriptedProvider(strict) as provider,
        running(catalog_of(provider.url, stream_options=switch)) as gateway,
    ):
        body = {"model": "small", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
        response = await gateway.http.post(f"{gateway.url}/chat/completions", json=body)
        row = await gateway.books.row()
    assert (response.status_code, strict.had_options) == (status, had_options)
    if status == 200:
        assert row.usage is not None
        assert row.usage.estimated
        assert row.usage.completion_tokens > 0
        assert gateway.books.shares[0].ended == [(row.usage.total_tokens, row.cost_picousd)]


@pytest.mark.parametrize(
    ("known", "status", "param", "text", "may_be"),
    [
        (None, 400, None, "", True),
        (None, 422, None, "Unexpected keyword argument", True),
        (None, 400, None, "property is not allowed", True),
        (None, 400, None, "Bad Request", True),
        (None, 422, None, "Validation error", True),
        (None, 400, None, "Invalid parameter", True),
        (None, 400, None, "usage in streams is not available", True),
        (None, 400, None, "extraneous key", True),
        (True, 400, None, "Invalid field streamOptions", True),
        (True, 400, None, "Bad Request", False),
        (None, 400, None, "messages: at least one is needed", False),
        (None, 400, "temperature", "too hot", False),
        (None, 400, "stream_options", "", True),
        (None, 400, "stream_options.include_usage", "", True),
        (None, 401, None, "stream_options", False),
        (None, 500, None, "stream_options", False),
        (True, 400, None, "anything", False),
        (True, 400, None, "stream_options: extra", True),
        (True, 422, "include_usage", "", True),
    ],
)
def test_what_may_be_refused_because_of_them(
    known: bool | None, status: int, param: str | None, text: str, may_be: bool
) -> None:
    assert StreamOptionsSupport(known).may_be_why(status, param, text) is may_be
    assert not StreamOptionsSupport(known, is_fixed=True).may_be_why(status, param, text)
