"""What several providers do: fail-over, breakers, callers who leave, hedges."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.vllm_service.resilience.cases import (
    CLOSED,
    LEFT,
    OPEN,
    RESTING,
    SOUND,
    STREAM,
    UNAVAILABLE,
    UPSTREAM,
    Case,
    answered,
    by,
    fails,
    recovers,
)
from tests.vllm_service.resilience.doors import TOUCHY, Replies, Setting, Verdict
from tests.vllm_service.resilience.one_provider import begun_then, late
from vllm_service.catalog.model import OnDisconnect
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.testing import (
    HANGS,
    RESETS,
    Pause,
    ReceivedRequest,
    Reply,
    Script,
    refused,
    reply_of,
)

SHORT = refused(400, code="context_length_exceeded")
OVERSIZED = refused(413, "Request too large for model", code="rate_limit_exceeded")
NO_CREDITS = refused(429, code="insufficient_quota")


def of_many() -> Iterator[Case]:
    tables: list[tuple[str, Replies, Verdict, tuple[int, ...]]] = [
        ("not reached", [None], fails(*UNAVAILABLE), ()),
        ("not reached, then a sound one", [None, SOUND], answered(2, 2), (1,)),
        ("429, then 500", [refused(429), refused(500)], fails(*UPSTREAM, 2), (2, 2)),
        ("500, then 429", [refused(500), refused(429)], fails(*UNAVAILABLE, 2), (2, 2)),
        ("a reset, then 429", [RESETS, refused(429)], fails(*UPSTREAM, 2), (1, 2)),
        ("401, then 404", [refused(401), refused(404)], fails(404, "NOT_FOUND_404", 2), (1, 1)),
        ("404, then 403", [refused(404), refused(403)], fails(*UPSTREAM, 2), (1, 1)),
        ("503, then a 400", [refused(503), refused(400)], fails(400, "INVALID_REQUEST_400", 2), (1, 1)),
        (
            "429 everywhere",
            [refused(429, retry_after="30"), refused(429, retry_after="12")],
            fails(429, "RATE_LIMIT_429", 2),
            (1, 1),
        ),
        ("a shorter context, then a longer one", [SHORT, SOUND], answered(2, 2), (1, 1)),
        ("a context that is too short everywhere", [SHORT, SHORT], fails(400, "context_length_exceeded", 2), (1, 1)),
        ("a shorter context, then no account", [SHORT, refused(401)], fails(400, "context_length_exceeded", 2), (1, 1)),
        ("a shorter context, then an outage", [SHORT, refused(503)], fails(*UNAVAILABLE, 2), (1, 2)),
        ("a limit by the minute, then a sound one", [OVERSIZED, SOUND], answered(2, 2), (1, 1)),
        ("a limit by the minute everywhere", [OVERSIZED, OVERSIZED], fails(429, "RATE_LIMIT_429", 2), (1, 1)),
        ("credits used up with 429, then a sound one", [NO_CREDITS, SOUND], answered(2, 2), (1, 1)),
        ("credits used up with 429 everywhere", [NO_CREDITS, NO_CREDITS], fails(*UPSTREAM, 2), (1, 1)),
        (
            "a rate limit with 400, then a sound one",
            [refused(400, code="rate_limit_exceeded"), SOUND],
            answered(2, 2),
            (1, 1),
        ),
        ("all fail", [refused(500)] * 3, fails(*UPSTREAM), (2, 1, 1)),
        ("two fail", [refused(500), RESETS, SOUND], answered(3, 3), (1, 1, 1)),
    ]
    for name, scripts, verdict, requests in tables:
        yield Case(name=name, scripts=lambda scripts=scripts: scripts, verdict=verdict, requests=requests)  # type: ignore[misc]

    yield Case(
        name="one that recovers",
        scripts=lambda: [recovers(1), refused(500)],
        verdict=answered(1, 3),
        requests=(2, 1),
    )


def of_breakers() -> Iterator[Case]:
    touchy = Setting(breakers=TOUCHY)
    yield Case(
        name="the only breaker is open",
        scripts=by(refused(500)),
        verdict=fails(503, "CIRCUIT_BREAKER_503", None),
        requests=(2,),
        setting=touchy,
        before=1,
        breakers=(OPEN,),
    )
    yield Case(
        name="every breaker is open",
        scripts=by(refused(500), refused(503)),
        verdict=fails(503, "CIRCUIT_BREAKER_503", None),
        requests=(2, 2),
        setting=touchy,
        before=1,
        breakers=(OPEN, OPEN),
    )
    yield Case(
        name="one breaker is open",
        scripts=by(refused(500), SOUND),
        verdict=answered(2, 1),
        requests=(2, 3),
        setting=touchy,
        before=2,
        breakers=(OPEN, CLOSED),
    )
    yield Case(
        name="a provider rests",
        scripts=by(refused(429, retry_after="3000"), SOUND),
        verdict=answered(2, 1),
        requests=(1, 2),
        before=1,
        breakers=(RESTING, CLOSED),
    )


def of_breakers_that_stay_closed() -> Iterator[Case]:
    touchy = Setting(breakers=TOUCHY)
    yield Case(
        name="the caller's mistakes open none",
        scripts=by(refused(400), SOUND),
        verdict=fails(400, "INVALID_REQUEST_400"),
        requests=(4, 0),
        setting=touchy,
        before=3,
        breakers=(CLOSED, CLOSED),
    )
    yield Case(
        name="what may be one provider's alone opens none",
        scripts=by(refused(404), SOUND),
        verdict=answered(2, 2),
        requests=(4, 4),
        setting=touchy,
        before=3,
        breakers=(CLOSED, CLOSED),
    )
    probing = BreakerSettings(consecutive_failures=1, open_seconds=0.001, successes_to_close=1)
    yield Case(
        name="a probe that succeeds closes it",
        scripts=lambda: [recovers(1, "first"), SOUND],
        verdict=answered(1, 1, "first"),
        requests=(2, 1),
        setting=Setting(breakers=probing),
        before=1,
        breakers=(CLOSED, CLOSED),
    )


def of_callers_who_leave() -> Iterator[Case]:
    drained = Setting(on_disconnect=OnDisconnect.DRAIN, breakers=TOUCHY)
    touchy = Setting(breakers=TOUCHY)
    yield Case(
        name="a caller who leaves before the answer",
        scripts=by(HANGS),
        verdict=LEFT,
        requests=(1,),
        setting=touchy,
        breakers=(CLOSED,),
        leaves="silent",
    )
    yield Case(
        name="a caller who leaves within a stream",
        scripts=by(begun_then(Pause(None)), SOUND),
        verdict=LEFT,
        requests=(1, 0),
        streams=STREAM,
        setting=touchy,
        breakers=(CLOSED, CLOSED),
        leaves="silent",
    )
    yield Case(
        name="a caller who leaves while the answer is read to its end",
        scripts=by(lambda request: SOUND(request).after(0.3)),
        verdict=LEFT,
        requests=(1,),
        setting=drained,
        breakers=(CLOSED,),
        leaves="asked",
    )
    yield Case(
        name="a caller who has left is not failed over for",
        scripts=by(refused(500).after(0.3), SOUND),
        verdict=LEFT,
        requests=(1, 0),
        setting=drained,
        leaves="asked",
    )


def of_hedges() -> Iterator[Case]:
    at_once = Setting(hedge_after_seconds=0.02)
    yield Case(
        name="a hedge that is quicker",
        scripts=by(HANGS, SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        setting=at_once,
    )
    yield Case(
        name="a hedge that is slower", scripts=first_wins, verdict=answered(1, 2), requests=(1, 1), setting=at_once
    )
    yield Case(
        name="a hedge that fails",
        scripts=lambda: _when_asked(SOUND, refused(500)),
        verdict=answered(1, 2),
        requests=(1, 1),
        setting=at_once,
    )
    yield Case(
        name="a hedge whose first fails",
        scripts=lambda: _when_asked(refused(500), late),
        verdict=answered(2, 2),
        requests=(1, 1),
        setting=at_once,
    )
    yield Case(
        name="a hedge where both fail",
        scripts=lambda: _when_asked(refused(500), refused(500).after(0.1)),  # what fails first is tried again first
        verdict=fails(*UPSTREAM, 2),
        requests=(2, 2),
        setting=at_once,
    )
    yield Case(
        name="no hedge where the first fails at once",
        scripts=by(refused(500), SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        setting=Setting(hedge_after_seconds=5.0),
    )
    yield Case(
        name="a caller who leaves two",
        scripts=lambda: _when_asked(HANGS, HANGS),
        verdict=LEFT,
        requests=(1, 1),
        setting=at_once,
        leaves="both",
    )


def first_wins() -> Replies:
    return _when_asked(SOUND, HANGS)


def _when_asked(first: Script | Reply, second: Script | Reply) -> Replies:
    """The first does as it is told once the second has been asked."""
    is_asked = asyncio.Event()

    async def waits(request: ReceivedRequest) -> Reply:
        return (await reply_of(first, request)).after(is_asked)

    async def comes(request: ReceivedRequest) -> Reply:
        is_asked.set()
        return await reply_of(second, request)

    return [waits, comes]
