"""Whatever a provider does, the gateway and LLMRouter come to the same: one driver, two doors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from tests.vllm_service.resilience.cases import SOUND, Case
from tests.vllm_service.resilience.doors import DOORS, Opens, Setting, Verdict, World, leaving
from tests.vllm_service.resilience.one_provider import (
    of_answers,
    of_broken_streams,
    of_heads_and_first_bytes,
    of_no_answers,
    of_statuses,
    of_time,
)
from tests.vllm_service.resilience.several_providers import (
    of_breakers,
    of_breakers_that_stay_closed,
    of_callers_who_leave,
    of_hedges,
    of_many,
)
from vllm_service.testing import chat, chat_stream

CASES = [
    *of_statuses(),
    *of_no_answers(),
    *of_answers(),
    *of_broken_streams(),
    *of_time(),
    *of_heads_and_first_bytes(),
    *of_many(),
    *of_breakers(),
    *of_breakers_that_stay_closed(),
    *of_callers_who_leave(),
    *of_hedges(),
]
RUNS = [
    pytest.param(case, stream, id=f"{case.name}, {'streamed' if stream else 'whole'}")
    for case in CASES
    for stream in case.streams
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("case", "stream"), RUNS)
async def test_both_doors_come_to_the_same(case: Case, stream: bool, door: str) -> None:
    async with asyncio.timeout(20), DOORS[door](case.scripts, case.setting) as world:
        for _ in range(case.before):
            await world.door.ask(stream=stream)
        assert await _asked(world, case, stream=stream) == case.verdict
        assert world.requests == case.requests
        assert world.in_flight == 0
        if case.breakers is not None:
            assert world.breaker_states == case.breakers


async def _asked(world: World, case: Case, *, stream: bool) -> Verdict:
    if case.leaves is None:
        return await world.door.ask(stream=stream)
    when: Awaitable[object]
    if case.leaves == "asked":
        when = world.providers[0].until_requests(1)
    elif case.leaves == "silent":
        when = world.providers[0].is_silent.wait()
    else:
        when = _all_silent(world)
    return await leaving(world, when, stream=stream)


async def _all_silent(world: World) -> None:
    for provider in world.providers:
        await provider.is_silent.wait()


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_a_whole_answer_cut_anywhere_is_answered_by_the_next_provider(door: Opens) -> None:
    answer = chat("first")
    async with door(lambda: [answer, SOUND], Setting()) as world:
        for position in range(answer.size):
            world.providers[0].script = answer.cut_at(position)
            verdict = await world.door.ask(stream=False)
            assert (verdict.text, verdict.provider) == ("sound", "provider-2"), position
        assert world.in_flight == 0


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_a_stream_cut_anywhere_is_answered_once_or_broken_off(door: Opens) -> None:
    """Until its first event is whole the next provider answers; then nothing else does, until [DONE] has come."""
    answer = chat_stream("fi", "rst")
    head, first, *rest = (action for action in answer.actions if isinstance(action, bytes))
    begun_at = len(head) + first.index(b"\n\n") + 2
    whole_at = answer.size - len(rest[-1]) - len(b"\r\n")
    async with door(lambda: [answer, SOUND], Setting()) as world:
        for position in range(0, answer.size, 2):
            world.providers[0].script = answer.cut_at(position)
            verdict = await world.door.ask(stream=True)
            if position < begun_at:
                assert (verdict.text, verdict.provider) == ("sound", "provider-2"), position
            elif position < whole_at:
                assert (verdict.outcome, verdict.provider) == ("broken", "provider-1"), position
                assert "first".startswith(verdict.text), position
            else:
                assert (verdict.outcome, verdict.text) == ("answered", "first"), position
        assert world.in_flight == 0


def test_the_table_holds_more_than_sixty_behaviours() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 60
