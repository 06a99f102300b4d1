"""LLMRouter's timers of silence: whatever a provider sends is a sign of life, and the deadline holds all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.vllm_service.client.router.two_places import AT_ONCE, Two, two
from vllm_service import LLMRouter, StreamBroken
from vllm_service.catalog.model import Catalog
from vllm_service.testing import DONE, Action, Pause, Reply, begun, chat_chunk, events

COMMENT = b": still thinking\n\n"
ROLE = chat_chunk(None)
IDLE_SECONDS = 1.0
SHORT = Pause(0.4)


def slowly(*items: object) -> tuple[Action, ...]:
    """The items, with a pause after each that is shorter than the idle time; the pauses together are longer."""
    row: list[Action] = []
    for item in items:
        row += [*begun(item).actions[1:], SHORT]
    return tuple(row)


END = events(chat_chunk("!"), chat_chunk(None, "stop"), DONE).actions[1:]
HEAD = begun().actions


def impatient(places: Two, **times: Any) -> Catalog:
    """The catalog with short times of the own endpoint."""
    providers: Mapping[str, Any] = places.catalog.providers
    own = replace(providers["own"], idle_timeout_seconds=IDLE_SECONDS, **times)
    return Catalog({**providers, "own": own}, places.catalog.models)


@pytest.mark.parametrize("sign", [COMMENT, ROLE], ids=["comments", "chunks without content"])
async def test_signs_of_life_keep_a_stream_that_has_begun(sign: object) -> None:
    reply = Reply((*HEAD, *begun(chat_chunk("hi")).actions[1:], *slowly(*[sign] * 5), *END))
    async with two(own=reply) as places, LLMRouter("QUALITY", impatient(places)) as router:
        assert [text async for text in router.stream("hi")] == ["hi", "!"]


@pytest.mark.parametrize("sign", [COMMENT, ROLE], ids=["comments", "chunks without content"])
async def test_signs_of_life_keep_a_stream_that_has_not_begun(sign: object) -> None:
    reply = Reply((*HEAD, *slowly(*[sign] * 5), *END))
    async with (
        two(own=reply) as places,
        LLMRouter("QUALITY", impatient(places, first_byte_timeout_seconds=IDLE_SECONDS), retries=AT_ONCE) as router,
    ):
        stream = router.stream("hi")
        assert [text async for text in stream] == ["!"]
    assert (stream.answer.provider, places.hosted.requests) == ("own", [])


async def test_silence_after_signs_of_life_goes_to_the_next_provider() -> None:
    reply = Reply((*HEAD, *slowly(COMMENT, COMMENT), Pause(None)))
    async with (
        two(own=reply) as places,
        LLMRouter("QUALITY", impatient(places, first_byte_timeout_seconds=IDLE_SECONDS), retries=AT_ONCE) as router,
    ):
        assert [text async for text in router.stream("hi")] == ["hosted"]


async def test_signs_of_life_do_not_outlive_the_deadline() -> None:
    reply = Reply((*HEAD, *begun(chat_chunk("hi")).actions[1:], *slowly(*[COMMENT] * 20), *END))
    async with two(own=reply) as places, LLMRouter("QUALITY", impatient(places), timeout_seconds=2.0) as router:
        stream = router.stream("hi")
        assert await anext(stream) == "hi"
        with pytest.raises(StreamBroken) as caught:
            await anext(stream)
    assert caught.value.status == 504


async def test_signs_of_life_do_not_take_the_time_of_the_next_provider() -> None:
    reply = Reply((*HEAD, *slowly(*[COMMENT] * 20), *END))
    async with (
        two(own=reply) as places,
        LLMRouter("QUALITY", impatient(places), timeout_seconds=3.0, retries=AT_ONCE) as router,
    ):
        assert [text async for text in router.stream("hi")] == ["hosted"]
