"""What providers do, and what a caller gets of it whichever door is used: the table of the driver's suite."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.vllm_service.resilience.doors import TOUCHY, Replies, Setting, Verdict
from vllm_service.catalog.model import OnDisconnect
from vllm_service.domain.breakers import BreakerState
from vllm_service.resilience.breakers.circuit_breaker import BreakerSettings
from vllm_service.testing import (
    CLOSES,
    DONE,
    GARBAGE,
    HANGS,
    RESETS,
    Action,
    Close,
    Pause,
    ReceivedRequest,
    Reply,
    Reset,
    Script,
    chat,
    chat_chunk,
    chat_stream,
    event,
    events,
    refused,
    reply_of,
    says,
    whole,
)

SOUND = says("so", "und")
WHOLE, STREAM = (False,), (True,)
BOTH = (False, True)
CLOSED, RESTING, OPEN, _ = BreakerState


@dataclass(frozen=True, kw_only=True)
class Case:
    """scripts: of the providers, made anew for each door. requests: that came to each of them in the end."""

    name: str
    scripts: Callable[[], Replies]
    verdict: Verdict
    requests: tuple[int, ...]
    streams: tuple[bool, ...] = BOTH
    setting: Setting = field(default_factory=Setting)
    breakers: tuple[BreakerState, ...] | None = None
    #: So many requests come before the one that is judged.
    before: int = 0
    #: The caller leaves when the first provider has fallen silent, or has been asked.
    leaves: str | None = None


def answered(provider: int, attempts: int, text: str = "sound") -> Verdict:
    return Verdict("answered", 200, None, f"provider-{provider}", text, attempts)


def fails(status: int, code: str, provider: int | None = 1) -> Verdict:
    return Verdict("refused", status, code, None if provider is None else f"provider-{provider}")


def broken(text: str, code: str = "UPSTREAM_502") -> Verdict:
    return Verdict("broken", 200, code, "provider-1", text)


LEFT = Verdict("left", 499)
GATEWAY_TIMEOUT, UPSTREAM, UNAVAILABLE = (504, "GATEWAY_TIMEOUT_504"), (502, "UPSTREAM_502"), (503, "MODEL_503")
# Status, Retry-After: what the caller gets where no other provider is, and after how many attempts.
STATUSES: dict[tuple[int, str | None], tuple[int, str, int]] = {
    (201, None): (*UPSTREAM, 2),
    (202, None): (*UPSTREAM, 2),
    (302, None): (*UPSTREAM, 2),
    (307, None): (*UPSTREAM, 2),
    (400, None): (400, "INVALID_REQUEST_400", 1),
    (401, None): (*UPSTREAM, 1),
    (402, None): (*UPSTREAM, 1),
    (403, None): (*UPSTREAM, 1),
    (404, None): (404, "NOT_FOUND_404", 1),
    (405, None): (*UPSTREAM, 1),
    (408, None): (*GATEWAY_TIMEOUT, 2),
    (409, None): (*UPSTREAM, 1),
    (413, None): (413, "CONTEXT_TOO_LONG_413", 1),
    (418, None): (418, "UPSTREAM_418", 1),
    (421, None): (*UPSTREAM, 1),
    (422, None): (422, "UPSTREAM_422", 1),
    (425, None): (*UPSTREAM, 1),
    (429, None): (429, "RATE_LIMIT_429", 2),
    (429, "0"): (429, "RATE_LIMIT_429", 2),
    (429, "3000"): (429, "RATE_LIMIT_429", 1),
    (429, "soon"): (429, "RATE_LIMIT_429", 2),
    (500, None): (*UPSTREAM, 2),
    (501, None): (*UPSTREAM, 2),
    (502, None): (*UPSTREAM, 2),
    (503, None): (*UNAVAILABLE, 2),
    (503, "3000"): (*UNAVAILABLE, 1),
    (504, None): (*GATEWAY_TIMEOUT, 2),
    (529, None): (*UPSTREAM, 2),
}
FINAL = {400, 413, 418, 422}


def of_statuses() -> Iterator[Case]:
    for (status, retry_after), (told, code, attempts) in STATUSES.items():
        reply = refused(status, retry_after=retry_after, code=status)
        if status in (302, 307):
            reply = whole({}, status, {"location": "/v1/elsewhere"})
        name = f"{status}" if retry_after is None else f"{status}, Retry-After {retry_after}"
        yield Case(
            name=f"{name}, alone", scripts=_of(reply), verdict=fails(told, code), requests=(attempts,), streams=BOTH
        )
        is_final = status in FINAL
        yield Case(
            name=f"{name}, then a sound one",
            scripts=_of(reply, SOUND),
            verdict=fails(told, code) if is_final else answered(2, 2),
            requests=(1, 0) if is_final else (1, 1),
        )


NOT_HTTP = Reply((b"SSH-2.0-OpenSSH_9.6\r\n", Close()))
ERROR = {"error": {"message": "the engine is dead", "code": 500}}
WHOLE_HEAD, STREAM_HEAD = chat("x").head_size, chat_stream("x").head_size
# None of these is an answer, nor has one begun.
NO_ANSWERS: dict[str, tuple[Reply, tuple[bool, ...]]] = {
    "reset at once": (RESETS, BOTH),
    "closed at once": (CLOSES, BOTH),
    "not HTTP": (NOT_HTTP, BOTH),
    "half a status line": (chat("x").cut_at(7), BOTH),
    "half a head": (chat("x").cut_at(40), BOTH),
    "half a head and a reset": (chat("x").cut_at(40, Reset()), BOTH),
    "a head that does not end": (Reply((b"HTTP/1.1 200 OK\r\nx-long: " + b"x" * 300_000,)), BOTH),
    "a head without a body": (chat("x").cut_at(WHOLE_HEAD), WHOLE),
    "a head and a reset": (chat("x").cut_at(WHOLE_HEAD, Reset()), WHOLE),
    "all but the last byte": (chat("x").cut_at(chat("x").size - 1), WHOLE),
    "half a document and a reset": (chat("x").cut_at(WHOLE_HEAD + 30, Reset()), WHOLE),
    "the head of a stream": (chat_stream("x").cut_at(STREAM_HEAD), STREAM),
    "half an event": (chat_stream("x").cut_at(STREAM_HEAD + 40), STREAM),
    "half an event and a reset": (chat_stream("x").cut_at(STREAM_HEAD + 40, Reset()), STREAM),
    "a stream without events": (events(), STREAM),
    "a stream of comments": (events(b": ping\n\n", b": ping\n\n"), STREAM),
    "an error event": (events(ERROR), STREAM),
    "an error event, then DONE": (events(ERROR, DONE), STREAM),
    "a named error event": (events(b"event: error\n" + event(ERROR)), STREAM),
    "HTML": (whole(GARBAGE, content_type="text/html"), BOTH),
    "HTML that says JSON": (whole(GARBAGE), BOTH),
    "an empty body": (whole(b""), BOTH),
    "null": (whole(None), BOTH),
    "a list": (whole([]), BOTH),
    "a number": (whole(12), BOTH),
    "half of a JSON document": (whole(b'{"choices": [{"index": 0'), BOTH),
    "an error with 200": (whole(ERROR), BOTH),
    "bytes that are no UTF-8": (whole(b"\xff\xfe\x00"), BOTH),
}


def of_no_answers() -> Iterator[Case]:
    for name, (reply, streams) in NO_ANSWERS.items():
        yield Case(name=f"{name}, alone", scripts=_of(reply), verdict=fails(*UPSTREAM), requests=(2,), streams=streams)
        yield Case(
            name=f"{name}, then a sound one",
            scripts=_of(reply, SOUND),
            verdict=answered(2, 2),
            requests=(1, 1),
            streams=streams,
        )


def by_bytes(size: int) -> Script:
    return lambda request: SOUND(request).in_pieces(size)


def late(request: ReceivedRequest) -> Reply:
    return SOUND(request).after(0.02)


def windows(request: ReceivedRequest) -> Reply:
    made = [event(item).replace(b"\n", b"\r\n") for item in (chat_chunk("sound"), chat_chunk(None, "stop"), DONE)]
    return events(*made)


ANSWERS: dict[str, tuple[Script | Reply, tuple[bool, ...]]] = {
    "at once": (SOUND, BOTH),
    "late": (late, BOTH),
    "a few bytes at a time": (by_bytes(11), BOTH),
    "without usage": (lambda asked: chat_stream("sound", usage=None) if asked.is_stream else chat("sound", None), BOTH),
    "after comments": (
        events(b": ping\n\n", b": ping\n\n", chat_chunk("sound"), chat_chunk(None, "stop"), DONE),
        STREAM,
    ),
    "in CRLF": (windows, STREAM),
    "with the type in capitals": (
        events(chat_chunk("sound"), chat_chunk(None, "stop"), DONE, content_type="TEXT/EVENT-STREAM; charset=utf-8"),
        STREAM,
    ),
    "all at once": (Reply((b"".join(a for a in chat_stream("sound").actions if isinstance(a, bytes)),)), STREAM),
    "without a length, to the end of the connection": (
        Reply((b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", chat("sound").actions[-1], Close())),
        WHOLE,
    ),
}


def of_answers() -> Iterator[Case]:
    for name, (reply, streams) in ANSWERS.items():
        yield Case(name=f"an answer {name}", scripts=_of(reply), verdict=answered(1, 1), requests=(1,), streams=streams)


def begun_then(*actions: Action) -> Reply:
    """A stream that has said `so`, and then something else."""
    return Reply(events(chat_chunk("so")).actions[:2]).then(*actions)


def of_broken_streams() -> Iterator[Case]:
    ends = {
        "ends": (begun_then(Close()), UPSTREAM),
        "is reset": (begun_then(Reset()), UPSTREAM),
        "ends its body without its end": (begun_then(b"0\r\n\r\n"), UPSTREAM),
        "goes on with what is no chunk": (begun_then(Pause(0.05), b"zz\r\n", Close()), UPSTREAM),
        "ends within an event": (begun_then(b"20\r\ndata: {", Close()), UPSTREAM),
        "falls silent": (begun_then(Pause(None)), GATEWAY_TIMEOUT),
    }
    for name, (reply, (_, code)) in ends.items():
        yield Case(
            name=f"a stream that {name}, and is not begun anew elsewhere",
            scripts=_of(reply, SOUND),
            verdict=broken("so", code),
            requests=(1, 0),
            streams=STREAM,
            setting=Setting(idle_seconds=0.4) if name == "falls silent" else Setting(),
        )
    yield Case(
        name="a stream that lasts longer than the request may",
        scripts=_of(begun_then(Pause(None)), SOUND),
        verdict=broken("so", "GATEWAY_TIMEOUT_504"),
        requests=(1, 0),
        streams=STREAM,
        setting=Setting(deadline_seconds=1.0),
    )


def of_time() -> Iterator[Case]:
    soon, once = Setting(deadline_seconds=1.0), Setting(deadline_seconds=0.5, attempts_per_offer=1)
    yield Case(name="silence, alone", scripts=_of(HANGS), verdict=fails(*GATEWAY_TIMEOUT), requests=(1,), setting=once)
    yield Case(
        name="silence leaves the next one time",
        scripts=_of(HANGS, SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        setting=soon,
    )
    yield Case(
        name="silence everywhere",
        scripts=_of(HANGS, HANGS),
        verdict=fails(*GATEWAY_TIMEOUT, 2),
        requests=(1, 1),
        setting=once,
    )
    yield Case(
        name="a head, then silence",
        scripts=_of(chat("x").cut_at(WHOLE_HEAD, Pause(None)), SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        streams=WHOLE,
        setting=soon,
    )
    yield Case(
        name="a head of a stream, then silence",
        scripts=_of(chat_stream("x").cut_at(STREAM_HEAD, Pause(None)), SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        streams=STREAM,
        setting=Setting(idle_seconds=0.4, first_byte_seconds=0.4),
    )
    yield Case(
        name="a stream whose first byte comes later than its provider may take",
        scripts=_of(HANGS, SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        streams=STREAM,
        setting=Setting(first_byte_seconds=0.4),
    )
    yield Case(
        name="a whole answer may take longer than a first byte",
        scripts=_of(chat("sound").after(0.6), SOUND),
        verdict=answered(1, 1),
        requests=(1, 0),
        streams=WHOLE,
        setting=Setting(first_byte_seconds=0.1),
    )


def of_many() -> Iterator[Case]:
    tables: list[tuple[str, Replies, Verdict, tuple[int, ...]]] = [
        ("not reached", [None], fails(*UNAVAILABLE), ()),
        ("not reached, then a sound one", [None, SOUND], answered(2, 2), (1,)),
        ("429, then 500", [refused(429), refused(500)], fails(*UPSTREAM, 2), (2, 2)),
        ("500, then 429", [refused(500), refused(429)], fails(*UNAVAILABLE, 2), (2, 2)),
        ("a reset, then 429", [RESETS, refused(429)], fails(*UPSTREAM, 2), (2, 2)),
        ("401, then 404", [refused(401), refused(404)], fails(404, "NOT_FOUND_404", 2), (1, 1)),
        ("404, then 403", [refused(404), refused(403)], fails(*UPSTREAM, 2), (1, 1)),
        ("503, then a 400", [refused(503), refused(400)], fails(400, "INVALID_REQUEST_400", 2), (1, 1)),
        (
            "429 everywhere",
            [refused(429, retry_after="30"), refused(429, retry_after="12")],
            fails(429, "RATE_LIMIT_429", 2),
            (1, 1),
        ),
        ("all fail", [refused(500)] * 3, fails(*UPSTREAM), (2, 1, 1)),
        ("two fail", [refused(500), RESETS, SOUND], answered(3, 3), (1, 1, 1)),
    ]
    for name, scripts, verdict, requests in tables:
        yield Case(name=name, scripts=lambda scripts=scripts: scripts, verdict=verdict, requests=requests)  # type: ignore[misc]

    yield Case(
        name="one that recovers",
        scripts=lambda: [_recovers(1), refused(500)],
        verdict=answered(1, 3),
        requests=(2, 1),
    )


def of_breakers() -> Iterator[Case]:
    touchy = Setting(breakers=TOUCHY)
    yield Case(
        name="the only breaker is open",
        scripts=_of(refused(500)),
        verdict=fails(503, "CIRCUIT_BREAKER_503", None),
        requests=(2,),
        setting=touchy,
        before=1,
        breakers=(OPEN,),
    )
    yield Case(
        name="every breaker is open",
        scripts=_of(refused(500), RESETS),
        verdict=fails(503, "CIRCUIT_BREAKER_503", None),
        requests=(2, 2),
        setting=touchy,
        before=1,
        breakers=(OPEN, OPEN),
    )
    yield Case(
        name="one breaker is open",
        scripts=_of(refused(500), SOUND),
        verdict=answered(2, 1),
        requests=(2, 3),
        setting=touchy,
        before=2,
        breakers=(OPEN, CLOSED),
    )
    yield Case(
        name="a provider rests",
        scripts=_of(refused(429, retry_after="3000"), SOUND),
        verdict=answered(2, 1),
        requests=(1, 2),
        before=1,
        breakers=(RESTING, CLOSED),
    )
    yield Case(
        name="the caller's mistakes open none",
        scripts=_of(refused(400), SOUND),
        verdict=fails(400, "INVALID_REQUEST_400"),
        requests=(4, 0),
        setting=touchy,
        before=3,
        breakers=(CLOSED, CLOSED),
    )
    yield Case(
        name="what may be one provider's alone opens none",
        scripts=_of(refused(404), SOUND),
        verdict=answered(2, 2),
        requests=(4, 4),
        setting=touchy,
        before=3,
        breakers=(CLOSED, CLOSED),
    )
    probing = BreakerSettings(consecutive_failures=1, open_seconds=0.001, successes_to_close=1)
    yield Case(
        name="a probe that succeeds closes it",
        scripts=lambda: [_recovers(1, "first"), SOUND],
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
        scripts=_of(HANGS),
        verdict=LEFT,
        requests=(1,),
        setting=touchy,
        breakers=(CLOSED,),
        leaves="silent",
    )
    yield Case(
        name="a caller who leaves within a stream",
        scripts=_of(begun_then(Pause(None)), SOUND),
        verdict=LEFT,
        requests=(1, 0),
        streams=STREAM,
        setting=touchy,
        breakers=(CLOSED, CLOSED),
        leaves="silent",
    )
    yield Case(
        name="a caller who leaves while the answer is read to its end",
        scripts=_of(lambda request: SOUND(request).after(0.3)),
        verdict=LEFT,
        requests=(1,),
        setting=drained,
        breakers=(CLOSED,),
        leaves="asked",
    )
    yield Case(
        name="a caller who has left is not failed over for",
        scripts=_of(refused(500).after(0.3), SOUND),
        verdict=LEFT,
        requests=(1, 0),
        setting=drained,
        leaves="asked",
    )


def of_hedges() -> Iterator[Case]:
    at_once = Setting(hedge_after_seconds=0.02)
    yield Case(
        name="a hedge that is quicker",
        scripts=_of(HANGS, SOUND),
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
        scripts=_of(refused(500), SOUND),
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


def _recovers(failures: int, text: str = "sound") -> Script:
    left = [failures]

    def script(request: ReceivedRequest) -> Reply:
        left[0] -= 1
        return refused(500) if left[0] >= 0 else says(text)(request)

    return script


def _of(*scripts: Script | Reply | None) -> Callable[[], Replies]:
    return lambda: scripts


CASES = [
    *of_statuses(),
    *of_no_answers(),
    *of_answers(),
    *of_broken_streams(),
    *of_time(),
    *of_many(),
    *of_breakers(),
    *of_callers_who_leave(),
    *of_hedges(),
]
