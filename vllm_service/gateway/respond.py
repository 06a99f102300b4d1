"""The way back: a provider's answer, or a cached one, counted, annotated and passed to the caller."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import partial

import msgspec

from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import BYTES_PER_TOKEN, Usage
from vllm_service.errors import ServiceError, UpstreamFailed
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import EMBEDDINGS
from vllm_service.gateway.provider_errors import fault_error
from vllm_service.http.error_answers import error_event
from vllm_service.http.upstream import Answer, ProviderFault
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import Failure, Kind
from vllm_service.storage.protocol import CachedResponse

# What does not change the answer. Streams have keys of their own: they are replayed as they were.
_ASIDE = ("stream_options", "user", "metadata", "safety_identifier")


def cache_key(call: RequestContext) -> bytes | None:
    """A digest of the request in canonical form; None when it is not to be cached.

    At temperature 0, for embeddings, or with the header `x-cache: on`; never with `x-cache: off`.
    """
    wish = call.headers.get(b"x-cache")
    is_repeatable = call.fields.temperature == 0 or call.operation is EMBEDDINGS
    if wish == b"off" or not (is_repeatable or wish == b"on"):
        return None
    try:
        members = msgspec.json.decode(call.request.body)
        for name in _ASIDE:
            members.pop(name, None)
        members["model"], members["stream"] = call.model.name, call.fields.stream is True
        canonical = msgspec.json.encode([call.operation.name, members], order="sorted")
    except (msgspec.DecodeError, RecursionError):  # too large a number, or too deep, in a member that was only skipped
        return None
    return hashlib.sha256(canonical).digest()


_JSON = b"content-type: application/json\r\n"
_EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
_ENVELOPE_BYTES = 350  # of a whole answer besides its text: id, times, names, finish reason


def send_whole(call: RequestContext, attempt: Attempt[Answer], *, keeps: bool) -> CachedResponse | None:
    """The provider's answer, annotated. keeps: it is returned as it came, as it may be given again."""
    document, now = attempt.answer.body, time.monotonic()
    if attempt.usage is None and call.model.tokenizer is not None:
        call.said = AnswerText.whole(document)
    call.count(attempt.usage or _by_length(call, max(0, len(document) - _ENVELOPE_BYTES)))
    if call.caller.has_left:
        call.outcome, call.status = Outcome.CANCELLED, 499
    call.answer(200, call.answer_headers(_JSON), call.annotated(document, now))
    attempt.succeeded(attempt.usage, now)
    return CachedResponse(document, False, call.usage) if keeps else None


async def relay_events(call: RequestContext, attempt: Attempt[Answer], *, keeps: bool) -> CachedResponse | None:
    """Returns when the stream has ended, well or with an explicit error; cancelled when the caller leaves.

    keeps: what was streamed is returned if it is complete, as it may be given again.
    """
    answer, caller = attempt.answer, call.caller
    relay = EventRelay(call.operation, caller.send, partial(_finish, call))
    kept: list[bytes] = []
    receive = _keeping(relay.receive, kept) if keeps else relay.receive
    if call.model.tokenizer is not None:
        call.said = AnswerText()
        receive = call.said.around(receive)
    caller.begin(200, call.answer_headers(_EVENT_STREAM))
    caller.fed_by(answer)
    error: ServiceError | None = None
    try:
        await answer.relay(receive)
    except ProviderFault as fault:
        error = fault_error(fault, call.facts.model)
    except BaseException:  # the caller has left, or the gateway itself failed: what came is counted either way
        answer.close()
        call.count(relay.usage or _by_events(call, relay))
        attempt.abandoned()
        raise
    call.count(relay.usage or _by_events(call, relay))
    if caller.has_left:
        call.outcome, call.status = Outcome.CANCELLED, 499
    if relay.is_complete:
        call.end()
        attempt.succeeded(relay.usage)
        return CachedResponse(b"".join(kept), True, call.usage) if keeps else None
    error = error or UpstreamFailed(f"The provider of {call.facts.model!r} ended the stream before its end.")
    _break(call, error)
    attempt.failed(Failure(Kind.CUT, content_started=True))
    return None


def replay(call: RequestContext, cached: CachedResponse) -> None:
    """Gives an answer again, as JSON or as a stream. It costs nothing."""
    call.outcome, call.reason = Outcome.CACHED, "response cache"
    if cached.usage is not None:
        call.count(cached.usage)
    if not cached.is_stream:
        call.answer(200, call.answer_headers(_JSON), call.annotated(cached.body, time.monotonic()))
        return
    call.caller.begin(200, call.answer_headers(_EVENT_STREAM))
    EventRelay(call.operation, call.caller.send, partial(_finish, call)).receive(cached.body)
    call.end()


def _finish(call: RequestContext, event: bytes, usage: Usage, is_only_usage: bool) -> bytes:
    """What is passed on in place of the event that carries usage.

    Many callers take `choices[0]` of every chunk: the one without choices is for those who asked for it.
    """
    call.count(usage)
    if is_only_usage and not call.fields.wants_usage and call.headers.get(b"x-annotate") != b"on":
        return b""
    return call.annotated(event, time.monotonic())


def _keeping(receive: Callable[[bytes], None], kept: list[bytes]) -> Callable[[bytes], None]:
    def keep(data: bytes) -> None:
        kept.append(data)
        receive(data)

    return keep


def _break(call: RequestContext, error: ServiceError) -> None:
    """Ends a stream that has begun with an error and without [DONE]; the status stays 200, it has been sent."""
    if call.outcome is not Outcome.CANCELLED:
        call.outcome, call.error_code = Outcome.FAILED, error.code
    call.error = error
    call.caller.send(error_event(error, call.request_id))
    call.end()


def _by_length(call: RequestContext, text_bytes: int) -> Usage:
    completion = text_bytes // BYTES_PER_TOKEN if call.operation.has_completion else 0
    return Usage(call.facts.prompt_tokens, completion, estimated=True)


def _by_events(call: RequestContext, relay: EventRelay) -> Usage:
    """Providers send about a token with each event."""
    return Usage(call.facts.prompt_tokens, max(0, relay.events - relay.is_complete), estimated=True)
