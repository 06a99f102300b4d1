"""What one provider does: statuses, no answers, odd answers, broken streams, silence."""

from __future__ import annotations

from collections.abc import Iterator

from tests.vllm_service.resilience.cases import (
    BOTH,
    GATEWAY_TIMEOUT,
    SOUND,
    STREAM,
    UNAVAILABLE,
    UPSTREAM,
    WHOLE,
    Case,
    answered,
    broken,
    by,
    fails,
)
from tests.vllm_service.resilience.doors import Setting
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
    whole,
)

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
    (413, None): (413, "BODY_TOO_LARGE_413", 1),
    (418, None): (418, "UPSTREAM_418", 1),
    (421, None): (*UPSTREAM, 1),
    (422, None): (422, "UPSTREAM_422", 1),
    (424, None): (*UPSTREAM, 1),
    (425, None): (*UPSTREAM, 1),
    (429, None): (429, "RATE_LIMIT_429", 2),
    (429, "0"): (429, "RATE_LIMIT_429", 2),
    (429, "3000"): (429, "RATE_LIMIT_429", 1),
    (429, "soon"): (429, "RATE_LIMIT_429", 2),
    (500, None): (*UPSTREAM, 2),
    (498, None): (429, "RATE_LIMIT_429", 2),
    (499, None): (*UPSTREAM, 2),
    (501, None): (*UPSTREAM, 1),
    (502, None): (*UPSTREAM, 2),
    (503, None): (*UNAVAILABLE, 2),
    (503, "3000"): (*UNAVAILABLE, 1),
    (504, None): (*GATEWAY_TIMEOUT, 1),
    (524, None): (*GATEWAY_TIMEOUT, 1),
    (529, None): (*UPSTREAM, 2),
}
FINAL = {400, 418, 422}


def of_statuses() -> Iterator[Case]:
    for (status, retry_after), (told, code, attempts) in STATUSES.items():
        reply = refused(status, retry_after=retry_after, code=status)
        if status in (302, 307):
            reply = whole({}, status, {"location": "/v1/elsewhere"})
        name = f"{status}" if retry_after is None else f"{status}, Retry-After {retry_after}"
        yield Case(
            name=f"{name}, alone",
            scripts=by(reply),
            verdict=fails(told, code),
            requests=(attempts,),
            streams=BOTH,
        )
        is_final = status in FINAL
        yield Case(
            name=f"{name}, then a sound one",
            scripts=by(reply, SOUND),
            verdict=fails(told, code) if is_final else answered(2, 2),
            requests=(1, 0) if is_final else (1, 1),
        )


NOT_HTTP = Reply((b"SSH-2.0-OpenSSH_9.6\r\n", Close()))
ERROR = {"error": {"message": "the engine is dead", "code": 500}}
WHOLE_HEAD, STREAM_HEAD = chat("x").head_size, chat_stream("x").head_size
# None of these is an answer, nor has one begun. After these the provider may be generating still, and gets no second
# request.
LOST: dict[str, tuple[Reply, tuple[bool, ...]]] = {
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
}
# After these it has ended.
NO_ANSWERS: dict[str, tuple[Reply, tuple[bool, ...]]] = {
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
    for name, (reply, streams) in (LOST | NO_ANSWERS).items():
        requests = (1,) if name in LOST else (2,)
        yield Case(
            name=f"{name}, alone", scripts=by(reply), verdict=fails(*UPSTREAM), requests=requests, streams=streams
        )
        yield Case(
            name=f"{name}, then a sound one",
            scripts=by(reply, SOUND),
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
        yield Case(name=f"an answer {name}", scripts=by(reply), verdict=answered(1, 1), requests=(1,), streams=streams)


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
            scripts=by(reply, SOUND),
            verdict=broken("so", code),
            requests=(1, 0),
            streams=STREAM,
            setting=Setting(idle_seconds=0.4) if name == "falls silent" else Setting(),
        )
    yield Case(
        name="a stream that lasts longer than the request may",
        scripts=by(begun_then(Pause(None)), SOUND),
        verdict=broken("so", "GATEWAY_TIMEOUT_504"),
        requests=(1, 0),
        streams=STREAM,
        setting=Setting(deadline_seconds=1.0),
    )


SOUND_HEAD, SOUND_BODY = chat("sound").actions


def of_time() -> Iterator[Case]:
    soon, once = Setting(deadline_seconds=1.0), Setting(deadline_seconds=0.5, attempts_per_offer=1)
    yield Case(name="silence, alone", scripts=by(HANGS), verdict=fails(*GATEWAY_TIMEOUT), requests=(1,), setting=once)
    yield Case(
        name="a stream that does not begin is not generated twice",
        scripts=by(HANGS),
        verdict=fails(*GATEWAY_TIMEOUT),
        requests=(1,),
        streams=STREAM,
        setting=Setting(first_byte_seconds=0.2),
    )
    yield Case(
        name="a whole answer may be silent behind its head",
        scripts=by(Reply((SOUND_HEAD, Pause(0.9), SOUND_BODY)), SOUND),
        verdict=answered(1, 1),
        requests=(1, 0),
        streams=WHOLE,
        setting=Setting(idle_seconds=0.2, first_byte_seconds=0.2),
    )
    yield Case(
        name="silence leaves the next one time",
        scripts=by(HANGS, SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        setting=soon,
    )
    yield Case(
        name="silence everywhere",
        scripts=by(HANGS, HANGS),
        verdict=fails(*GATEWAY_TIMEOUT, 2),
        requests=(1, 1),
        setting=once,
    )


def of_heads_and_first_bytes() -> Iterator[Case]:
    soon = Setting(deadline_seconds=1.0)
    yield Case(
        name="a head, then silence",
        scripts=by(chat("x").cut_at(WHOLE_HEAD, Pause(None)), SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        streams=WHOLE,
        setting=soon,
    )
    yield Case(
        name="a head of a stream, then silence",
        scripts=by(chat_stream("x").cut_at(STREAM_HEAD, Pause(None)), SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        streams=STREAM,
        setting=Setting(idle_seconds=0.4, first_byte_seconds=0.4),
    )
    yield Case(
        name="a stream whose first byte comes later than its provider may take",
        scripts=by(HANGS, SOUND),
        verdict=answered(2, 2),
        requests=(1, 1),
        streams=STREAM,
        setting=Setting(first_byte_seconds=0.4),
    )
    yield Case(
        name="a whole answer may take longer than a first byte",
        scripts=by(chat("sound").after(0.6), SOUND),
        verdict=answered(1, 1),
        requests=(1, 0),
        streams=WHOLE,
        setting=Setting(first_byte_seconds=0.1),
    )
