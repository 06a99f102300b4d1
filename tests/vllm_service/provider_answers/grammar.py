"""A grammar of what providers send with status 200, well-formed and not, whole and streamed.

Each answer comes with what a caller must get of it, which follows from how it was made and not from the code under
test. The same seed makes the same answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from vllm_service.domain.answers import Form
from vllm_service.testing import Close, Reply, begun, events, whole

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = Form
WORDS = ("Hel", "lo ", "wörld", " 東京", '"quoted"', "\n\ndata: x", "error", " \\ ", "🚀", "[DONE]")
Json = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """What a caller gets.

    kind: answered; elsewhere (nothing of it was shown, so another provider answered); refused (the caller's mistake);
    broken (an error after `text`).
    """

    kind: str
    text: str = ""


ELSEWHERE, REFUSED = Expected("elsewhere"), Expected("refused")


@dataclass(frozen=True)
class ProviderAnswer:
    """One answer. path: the choices in the grammar that made it."""

    path: str
    form: Form
    is_streamed: bool
    reply: Reply
    expected: Expected
    #: Whether the official SDK has a view: it looks for errors in streams only, and not at how these end.
    has_sdk_view: bool = True


def answers(count: int, seed: int) -> list[ProviderAnswer]:
    """Returns that many answers."""
    random = Random(seed)
    return [_answer(random) for _ in range(count)]


def _answer(random: Random) -> ProviderAnswer:
    form = random.choices((CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS), (10, 3, 4, 2))[0]
    is_streamed = form is not EMBEDDINGS and random.random() < 0.65
    if is_streamed and random.random() < 0.85:
        made = _stream(random, form)
    else:
        made = _whole(random, form, is_streamed=is_streamed)
    return replace(made, path=f"{form.value} {'streamed' if is_streamed else 'whole'}: {made.path}")


# Errors.


@dataclass(frozen=True)
class Fault:
    name: str
    error: object
    #: Whether it is the caller's mistake by its status, so that no other provider is tried.
    is_callers: bool = False
    around: Json | None = None


FAULTS = (
    Fault("an error", {"message": "no", "type": "?"}),
    Fault("an error as text", "no"),
    Fault("429 by number", {"message": "slow down", "code": 429}),
    Fault("429 by code", {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}),
    Fault("400 by number", {"message": "no", "type": "BadRequestError", "code": 400}, True),
    Fault("400 by type", {"message": "no", "type": "invalid_request_error", "code": None}, True),
    Fault("401", {"message": "who", "type": "authentication_error", "code": "invalid_api_key"}),
    Fault("500", {"message": "dead", "type": "InternalServerError", "code": 500}),
    Fault("503 by type", {"message": "busy", "type": "overloaded_error"}),
    Fault("an error with other members", {"code": "502", "message": "no"}, around={"id": "x", "choices": None}),
)


# Whole answers.


def _text(random: Random) -> str:
    return "".join(random.choices(WORDS, k=random.randint(1, 4)))


def _document(form: Form, text: str) -> Json:
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    envelope = {"id": "x-1", "created": 1, "model": "there", "usage": usage}
    if form is CHAT:
        message = {"role": "assistant", "content": text}
        choices: list[Json] = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
        return {**envelope, "object": "chat.completion", "choices": choices}
    if form is COMPLETIONS:
        return {
            **envelope,
            "object": "text_completion",
            "choices": [{"index": 0, "text": text, "finish_reason": "stop"}],
        }
    if form is EMBEDDINGS:
        return {**envelope, "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]}
    part = {"type": "output_text", "text": text, "annotations": []}
    item: Json = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    counts = {"input_tokens": 10, "output_tokens": 3, "total_tokens": 13}
    return {
        **envelope,
        "object": "response",
        "status": "completed",
        "error": None,
        "output": [item],
        "usage": counts,
    }


def _shown(form: Form, text: str) -> Expected:
    return Expected("answered", "" if form is EMBEDDINGS else text)


def _whole(random: Random, form: Form, *, is_streamed: bool) -> ProviderAnswer:
    """An answer in one piece. For a streamed request it is one as well: it is replayed as a stream."""
    text = _text(random)
    name, body, expected, has_sdk_view = random.choice(_WHOLE)(random, form, text)
    content_type = random.choice((None, None, "text/plain", "text/event-stream", "application/octet-stream"))
    if content_type is not None:
        name = f"{name}, as {content_type}"
    # The SDK reads a body by its content type, and a whole answer for a stream not at all.
    has_sdk_view = has_sdk_view and not is_streamed and content_type is None
    return ProviderAnswer(name, form, is_streamed, whole(body, content_type=content_type), expected, has_sdk_view)


Made = tuple[str, bytes, Expected, bool]


def _sound(random: Random, form: Form, text: str) -> Made:
    spaces = random.choice((None, (",", ":")))
    body = json.dumps(_document(form, text), separators=spaces, ensure_ascii=random.random() < 0.5).encode()
    return "sound", body, _shown(form, text), True


def _odd_but_sound(random: Random, form: Form, text: str) -> Made:
    """What is around the text is odd; bytes that are not read are not a reason to lose an answer."""
    body = json.dumps({**_document(form, text), "x": "odd"}, separators=(",", ":")).encode()
    odd = {
        "a byte order mark": b"\xef\xbb\xbf" + body,
        "NaN beside it": body.replace(b'"odd"', b"[NaN,-Infinity]"),
        "half an emoji beside it": body.replace(b'"odd"', b'"cut \\ud83d"'),
        "white space around it": b"\r\n \t" + body + b"\n\n",
        "a null error": body.replace(b'"x":"odd"', b'"error":null'),
        "an empty error": body.replace(b'"x":"odd"', b'"error":{}'),
        "5,000 digits": body.replace(b'"odd"', b"1" * 4000),
        "usage of another shape": body.replace(b'"total_tokens":13', b'"total_tokens":"many"'),
    }
    name = random.choice(list(odd))
    return name, odd[name], _shown(form, text), True


def _cut_bytes(random: Random, form: Form, text: str) -> Made:
    body = json.dumps({**_document(form, text), "x": "odd"}).encode().replace(b"odd", b"cut \xf0\x9f")
    return "half an emoji in bytes", body, _shown(form, text), False


def _error_document(random: Random, form: Form, text: str) -> Made:
    fault = random.choice(FAULTS)
    body = json.dumps({**(fault.around or {}), "error": fault.error}).encode()
    return fault.name, body, REFUSED if fault.is_callers else ELSEWHERE, True


def _error_beside_answer(random: Random, form: Form, text: str) -> Made:
    fault = random.choice(FAULTS)
    body = json.dumps({**_document(form, text), "error": fault.error}).encode()
    return f"{fault.name} beside an answer", body, REFUSED if fault.is_callers else ELSEWHERE, False


def _no_answer(random: Random, form: Form, text: str) -> Made:
    document = _document(form, text)
    holder = {RESPONSES: "output", EMBEDDINGS: "data"}.get(form, "choices")
    bodies: dict[str, object] = {
        "an empty object": {},
        "null": None,
        "a list": [],
        "a page": b"<html><body>502 Bad Gateway</body></html>",
        "nothing": b"",
        "white space": b" \n",
        "a text": b"upstream connect error",
        "cut": json.dumps(document).encode()[:-20],
        "null content": {**document, holder: None},
        "content of another type": {**document, holder: "none"},
        "content that is a number": {**document, holder: [5]},
        "no content": {name: value for name, value in document.items() if name != holder},
        "another server's words": {"detail": "Not Found"},
        "a job": {"id": "j", "status": "IN_QUEUE"},
    }
    name = random.choice(list(bodies))
    body = bodies[name]
    return name, body if isinstance(body, bytes) else json.dumps(body).encode(), ELSEWHERE, True


_WHOLE: tuple[Callable[[Random, Form, str], Made], ...] = (
    _sound, _sound, _odd_but_sound, _odd_but_sound, _cut_bytes, _error_document, _error_document, _error_beside_answer,
    _no_answer, _no_answer, _no_answer,
)  # fmt: skip


# Streams.


def _stream(random: Random, form: Form) -> ProviderAnswer:
    """A stream: a beginning, some text, an end, and perhaps an error somewhere; written in one of many ways."""
    fault = random.choice(FAULTS) if random.random() < 0.35 else None
    has_text = fault is None or random.random() < 0.5
    texts = random.choices(WORDS, k=random.randint(1, 4)) if has_text else []
    end = random.choice(("done", "done", "reason", "nothing"))
    if form is RESPONSES and end == "reason":
        end = "done"
    documents = [*_beginning(random, form), *(_part(form, text) for text in texts)]
    if fault is not None:
        documents.append(_fault_event(random, form, fault))
    documents += _end(form, end, "".join(texts))
    is_cut = fault is None and random.random() < 0.1
    expected = _expected("".join(texts), fault, end, is_cut=is_cut, has_done=end == "done" and form is not RESPONSES)
    path = f"{len(texts)} texts, {fault.name if fault else 'no error'}, ends with {end}{', cut' if is_cut else ''}"
    # The SDK does not miss an end, and does not know an error by its event's name alone.
    has_sdk_view = fault is not None or end != "nothing" or is_cut
    return _written(
        random, ProviderAnswer(path, form, True, Reply(()), expected, has_sdk_view), documents, is_cut=is_cut
    )


def _expected(text: str, fault: Fault | None, end: str, *, is_cut: bool, has_done: bool) -> Expected:
    if fault is not None and not text:
        return REFUSED if fault.is_callers else ELSEWHERE
    # Nothing is missing behind [DONE], so no reader waits for the end of the connection.
    is_broken = fault is not None or end == "nothing" or (is_cut and not has_done)
    return Expected("broken" if is_broken else "answered", text)


def _chunk(form: Form, choice: Json | None, **members: Any) -> Json:
    kind = "chat.completion.chunk" if form is CHAT else "text_completion"
    return {"id": "x-1", "object": kind, "created": 1, "choices": [] if choice is None else [choice], **members}


def _beginning(random: Random, form: Form) -> Iterator[object]:
    """Comments, and events that announce an answer without anything of it."""
    if random.random() < 0.3:
        yield b": waiting\n\n"
    if form is RESPONSES:
        response = {**_document(form, ""), "status": "in_progress", "output": [], "usage": None}
        yield {"type": "response.created", "sequence_number": 0, "response": response}
    elif form is CHAT and random.random() < 0.7:
        yield _chunk(form, {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})


def _part(form: Form, text: str) -> Json:
    if form is RESPONSES:
        where = {"item_id": "m", "output_index": 0, "content_index": 0, "sequence_number": 1, "logprobs": []}
        return {"type": "response.output_text.delta", "delta": text, **where}
    if form is CHAT:
        return _chunk(form, {"index": 0, "delta": {"content": text}, "finish_reason": None})
    return _chunk(form, {"index": 0, "text": text, "finish_reason": None})


def _fault_event(random: Random, form: Form, fault: Fault) -> object:
    members = {"error": fault.error, **(fault.around or {})}
    if random.random() < 0.25:
        return b"event: error\ndata: %b\n\n" % json.dumps(members).encode()
    return members


def _end(form: Form, end: str, text: str) -> Iterator[object]:
    if end == "nothing":
        return
    if form is RESPONSES:
        yield {"type": "response.completed", "sequence_number": 2, "response": _document(form, text)}
        return
    last: Json = {"index": 0, "finish_reason": "stop"}
    last["delta" if form is CHAT else "text"] = {} if form is CHAT else ""
    yield _chunk(form, last)
    yield _chunk(form, None, usage={"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13})
    if end == "done":
        yield b"data: [DONE]\n\n"


def _written(random: Random, answer: ProviderAnswer, documents: list[object], *, is_cut: bool) -> ProviderAnswer:
    """The bytes: line breaks, spaces, names of events, the last empty line, the content type, and where it is split."""
    spaces = random.choice((None, (",", ":")))
    is_ascii, is_tight, has_names = random.random() < 0.5, random.random() < 0.2, random.random() < 0.5
    line_break = random.choices((b"\n", b"\r\n", b"\r"), (6, 2, 1))[0]
    parts = []
    for document in documents:
        if isinstance(document, bytes):
            parts.append(document)
            continue
        data = json.dumps(document, separators=spaces, ensure_ascii=is_ascii).encode()
        kind = document.get("type", "") if isinstance(document, dict) and has_names else ""
        name = b"event: %b\n" % kind.encode() if answer.form is RESPONSES and kind else b""
        parts.append(b"%bdata:%b%b\n\n" % (name, b"" if is_tight else b" ", data))
    written = [part.replace(b"\n", line_break) for part in parts]
    if documents and documents[-1] == b"data: [DONE]\n\n" and not is_cut and random.random() < 0.3:
        written[-1] = written[-1].rstrip(b"\r\n") + random.choice((b"", line_break))
    content_type = random.choice((None, None, "application/json", "text/plain", "application/octet-stream"))
    path = f"{answer.path}, lines end with {line_break!r}, as {content_type}"
    size = random.choice((None, None, 7))
    body = b"".join(written)
    pieces = written if size is None else [body[at : at + size] for at in range(0, len(body), size)]
    made = (
        begun(*pieces, content_type=content_type).then(Close())
        if is_cut
        else events(*pieces, content_type=content_type)
    )
    return replace(answer, path=path, reply=made)
