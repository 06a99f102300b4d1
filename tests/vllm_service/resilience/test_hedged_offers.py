"""A hedge between two offers of one provider: both attempts are open at once, and nothing of them stays in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.vllm_service.resilience.doors import DOORS, Opens, Setting, Verdict, World, leaving
from vllm_service.domain.breakers import BreakerState
from vllm_service.testing import HANGS, ReceivedRequest, Reply, Script, refused, reply_of, says

TWO = Setting(hedge_after_seconds=0.02, offers_of_one=2)
Pair = tuple[Reply | Script, Reply | Script]
# What the first offer does once the second has been asked, and what the second one does.
PAIRS: dict[str, tuple[Pair, Verdict]] = {
    "the first is quicker": ((says("first"), HANGS), Verdict("answered", 200, None, "provider-1", "first", 2)),
    "the second is quicker": ((HANGS, says("second")), Verdict("answered", 200, None, "provider-1", "second", 2)),
    "the first fails": ((refused(500), says("second")), Verdict("answered", 200, None, "provider-1", "second", 2)),
    "the second fails": ((says("first"), refused(500)), Verdict("answered", 200, None, "provider-1", "first", 2)),
    "both fail": ((refused(500), refused(500)), Verdict("refused", 502, "UPSTREAM_502", "provider-1")),
    "the caller leaves": ((HANGS, HANGS), Verdict("left", 499)),
}


def one_provider(first: Reply | Script, second: Reply | Script) -> Callable[[], list[Script]]:
    """It knows its offers by the name of the model."""

    def scripts() -> list[Script]:
        is_hedged = asyncio.Event()

        async def script(request: ReceivedRequest) -> Reply:
            if request.json["model"] == "small-2":
                is_hedged.set()
                return await reply_of(second, request)
            return (await reply_of(first, request)).after(is_hedged)

        return [script]

    return scripts


async def _asked(world: World, name: str, *, stream: bool) -> Verdict:
    if name != "the caller leaves":
        return await world.door.ask(stream=stream)
    return await leaving(world, world.providers[0].until_requests(2), stream=stream)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", PAIRS)
async def test_two_offers_of_one_provider_leave_nothing_in_flight(name: str, stream: bool, door: Opens) -> None:
    replies, verdict = PAIRS[name]
    async with asyncio.timeout(20), door(one_provider(*replies), TWO) as world:
        assert await _asked(world, name, stream=stream) == verdict
        assert world.in_flight == 0
        assert world.breaker_states == (BreakerState.CLOSED, BreakerState.CLOSED)
