"""Errors that come with status 200, through both doors: caller and breaker get what the status in them means."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm_service.resilience.doors import DOORS, TOUCHY, Opens, Setting
from vllm_service.domain.breakers import BreakerState
from vllm_service.testing import DONE, ReceivedRequest, Reply, Script, chat_chunk, events, whole

SETTING = Setting(breakers=TOUCHY, attempts_per_offer=1)
ERRORS: dict[str, tuple[dict[str, Any], int, str, bool]] = {
    "400": ({"message": "no", "type": "BadRequestError", "code": 400}, 400, "INVALID_REQUEST_400", False),
    "429": ({"message": "slow down", "code": "rate_limit_exceeded"}, 429, "RATE_LIMIT_429", False),
    "500": ({"message": "dead", "type": "InternalServerError", "code": 500}, 502, "UPSTREAM_502", True),
    "no status": ({"message": "dead"}, 502, "UPSTREAM_502", True),
}


def failing(error: dict[str, Any], *before: object) -> Script:
    """Answers with the error; in a stream after these events, and before [DONE], as vLLM does."""

    def script(request: ReceivedRequest) -> Reply:
        return events(*before, {"error": error}, DONE) if request.is_stream else whole({"id": "x", "error": error})

    return script


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ERRORS)
async def test_before_the_first_content_it_is_the_error_of_its_status(name: str, stream: bool, door: Opens) -> None:
    error, status, code, opens = ERRORS[name]
    role = chat_chunk(None, choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    async with door(lambda: [failing(error, b": wait\n\n", role)], SETTING) as world:
        for _ in range(2):
            verdict = await world.door.ask(stream=stream)
            assert (verdict.outcome, verdict.status, verdict.code) == ("refused", status, code)
        assert (world.breaker_states == (BreakerState.OPEN,)) is opens
        assert world.in_flight == 0


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("name", ERRORS)
async def test_after_it_the_stream_ends_in_that_error_and_is_a_failure(name: str, door: Opens) -> None:
    error, _, code, opens = ERRORS[name]
    async with door(lambda: [failing(error, chat_chunk("Hel"))], SETTING) as world:
        for _ in range(2):
            verdict = await world.door.ask(stream=True)
            assert (verdict.outcome, verdict.text, verdict.code) == ("broken", "Hel", code)
        assert (world.breaker_states == (BreakerState.OPEN,)) is opens
        assert world.in_flight == 0
