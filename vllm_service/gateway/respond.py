"""The way of an answer to the caller: counted, annotated and written, from a provider or from the response cache."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from vllm_service.domain.answers import Verdict, judge_whole
from vllm_service.domain.requests import Outcome
from vllm_service.domain.usage import Usage, counted, usage_of
from vllm_service.errors import ServiceError
from vllm_service.gateway.answer_text import AnswerText
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.event_relay import EventRelay
from vllm_service.gateway.operations import EMBEDDINGS
from vllm_service.gateway.provider_errors import not_an_answer, not_reached
from vllm_service.http.error_answers import error_body, error_event, error_headers
from vllm_service.http.upstream import Answer, ProviderFault
from vllm_service.resilience.attempts import Attempt
from vllm_service.resilience.failures import NotAnswered
from vllm_service.storage.protocol import CachedResponse

# Members that do not change an answer, so they are left out of the cache key. `stream` is not among them: an answer is
# replayed in the form in which it came.
_IGNORED_MEMBERS = ("stream_options", "user", "metadata", "safety_identifier")


# To write JSON in canonical form takes up to 100 ns a byte where it is all brackets, and 1 ns where it is text.
_MOST_CANONICAL_BYTES = 512 * 2**10
_MOST_CANONICAL_PARTS = 5000
#: Of a longer body the digest is made in a thread, which hashlib lets run beside the event loop.
LARGE_BYTES = 512 * 2**10
#: So much of a cached stream is written in one turn of the event loop.
_REPLAYED_TOGETHER_BYTES = 64 * 2**10


def cache_key(context: RequestContext) -> bytes | None:
    """Returns a digest of the request; None when its answer is not to be cached.

    Cached are answers at temperature 0, embeddings, and all with the header `x-cache: on`; none with `x-cache: off`.
    The digest is of the canonical form, or of the bytes as they came where that form would take too long.
    """
    cache_header = context.headers.get(b"x-cache")
    is_repeatable = context.fields.temperature == 0 or context.operation is EMBEDDINGS
    if cache_header == b"off" or not (is_repeatable or cache_header == b"on"):
        return None
    body = context.request.body
    if not _is_light(body):
        digest = hashlib.sha256(f"{context.operation.name} {context.model.name} ".encode())
        digest.update(body)
        return digest.digest()
    try:
        members = msgspec.json.decode(body)
        for name in _IGNORED_MEMBERS:
            members.pop(name, None)
        members["model"] = context.model.name  # an alias and its model share answers
        members["stream"] = context.fields.stream is True
        canonical = msgspec.json.encode([context.operation.name, members], order="sorted")
    except (msgspec.DecodeError, RecursionError):
        # `request_body.read` only skips most members; one of them may hold too large a number or be nested too deeply.
        return None
    return hashlib.sha256(canonical).digest()


def _is_light(body: bytes) -> bool:
    if len(body) > _MOST_CANONICAL_BYTES:
        return False
    most = _MOST_CANONICAL_PARTS
    return len(body) <= 2 * most or sum(body.count(sign) for sign in (b",", b"[", b"{")) <= most


_JSON = b"content-type: application/json\r\n"
_EVENT_STREAM = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"


def begin_stream(context: RequestContext, *, names_provider: bool = True) -> None:
    """Sends the head of a stream, unless keep_alive.py has done so. names_provider: False before one has answered."""
    if not context.writer.has_begun:
        own = context.answer_headers(_EVENT_STREAM) if names_provider else _EVENT_STREAM + context.id_line
        context.writer.begin(200, own)


def refuse(context: RequestContext, error: ServiceError) -> None:
    """Answers with an error, unless the request has its answer already. Every error answer is made here.

    Where the head of a stream has been sent, and no content, the error is the stream's only event. Its row has the
    error's status all the same: the head was sent to keep the connection, and no answer has begun.
    """
    if context.is_answered:
        return
    context.snapshot.conceal(error)
    is_rejected = context.reservation is None or (context.attempts == 0 and error.status < 500)
    context.outcome = Outcome.REJECTED if is_rejected else Outcome.FAILED
    context.status = error.status
    context.error_code = error.code
    context.error = error
    if context.relay is not None:
        context.writer.abort()  # content cannot be taken back; without its end the stream is seen to be broken
    elif context.writer.has_begun:
        context.writer.send(error_event(error, context.request_id))
        context.end()
    else:
        context.answer(error.status, error_headers(error) + context.id_line, error_body(error, context.request_id))


def send_whole(context: RequestContext, attempt: Attempt[Answer], *, keeps: bool) -> CachedResponse | None:
    """Writes the provider's whole answer, annotated. keeps: returns it without annotations, for the response cache."""
    document = attempt.answer.body
    now = time.monotonic()
    usage = attempt.usage
    assert usage is not None, "a whole answer has been counted by the attempt"
    if usage.estimated and context.model.tokenizer is not None:
        context.reported = usage_of(judge_whole(context.operation.form, document).usage)
        context.answer_text = AnswerText.whole(document)
    context.count(usage)
    if context.writer.has_left:
        context.outcome = Outcome.CANCELLED
        context.status = 499
    context.answer(200, context.answer_headers(_JSON), context.annotated(document, now))
    attempt.succeeded(usage.if_counted, now)
    return CachedResponse(document, False, context.usage) if keeps else None


async def relay_events(context: RequestContext, attempt: Attempt[Answer], *, keeps: bool) -> CachedResponse | None:
    """Passes the stream on until it has ended, completely or with an explicit error.

    keeps: returns a complete stream as it came, for the response cache. It is cancelled when the caller leaves.
    """
    answer = attempt.answer
    writer = context.writer
    relay = EventRelay(
        context.operation, writer.send, partial(_annotated_usage, context), context.fields.choices(context.operation)
    )
    kept: list[bytes] = []
    # Copies are made only where they are needed, so that a plain stream costs one call per chunk.
    receive = _keeping(relay.receive, kept) if keeps else relay.receive
    if context.model.tokenizer is not None:
        context.answer_text = AnswerText()
        receive = context.answer_text.around(receive)
    begin_stream(context)
    context.relay = relay
    writer.set_source(_Source(answer, attempt))
    failed: NotAnswered | None = None
    try:
        await answer.relay(receive)
        failed = _failure_at_end(relay, answer, context.facts.model)
    except ProviderFault as fault:
        failed = _failure_within(relay, answer, fault, context.facts.model)
    except BaseException:
        # The caller has left, or the gateway itself failed. What has come so far costs money either way.
        answer.close()
        _left(context, relay, attempt)
        raise
    usage = _count_stream(context, relay)
    if writer.has_left:  # and the answer was read to its end all the same (on_disconnect: drain)
        context.outcome = Outcome.CANCELLED
        context.status = 499
    if failed is None:
        context.end()
        attempt.succeeded(usage.if_counted)
        return CachedResponse(b"".join(kept), True, context.usage) if keeps else None
    _end_with_error(context, failed.error)
    attempt.failed(dataclasses.replace(failed.failure, content_started=True))
    return None


class _Source(msgspec.Struct):
    """The answer as the caller's connection pauses it, so that a slow reader is not taken for a slow provider."""

    answer: Answer
    attempt: Attempt[Answer]

    def pause(self) -> None:
        """Implements FlowControl."""
        self.attempt.is_held_up = True
        self.answer.pause()

    def resume(self) -> None:
        """Implements FlowControl."""
        self.answer.resume()


def _left(context: RequestContext, relay: EventRelay, attempt: Attempt[Answer]) -> None:
    """Books a stream that is not read any further. It is complete once [DONE] has come.

    SDKs leave then, and some providers keep the connection open behind it.
    """
    usage = _count_stream(context, relay)
    if not (relay.is_done and relay.is_complete):
        attempt.abandoned()
        return
    if context.writer.has_left:
        context.is_answered = True
    else:
        context.end()
    attempt.succeeded(usage.if_counted)


def _failure_at_end(relay: EventRelay, answer: Answer, model: str) -> NotAnswered | None:
    """Returns the failure of a stream that has ended cleanly; None if it was complete."""
    judgement = relay.end()
    return None if judgement.verdict is Verdict.ANSWER else not_an_answer(judgement, answer.headers, model)


def _failure_within(relay: EventRelay, answer: Answer, fault: ProviderFault, model: str) -> NotAnswered | None:
    """Returns the failure of a stream that broke off; None if [DONE] had come by then."""
    if relay.fault is not None:
        answer.close()
        return not_an_answer(relay.fault, answer.headers, model)
    return None if relay.is_done else not_reached(fault, model)


async def replay(context: RequestContext, cached: CachedResponse) -> None:
    """Writes a cached answer, as JSON or as a stream. It costs nothing. A long stream lets others have their turns."""
    context.outcome = Outcome.CACHED
    context.reason = "response cache"
    if cached.usage is not None:
        context.count(cached.usage)
    if not cached.is_stream:
        context.answer(200, context.answer_headers(_JSON), context.annotated(cached.body, time.monotonic()))
        return
    begin_stream(context)
    relay = EventRelay(
        context.operation,
        context.writer.send,
        partial(_annotated_usage, context),
        context.fields.choices(context.operation),
    )
    for start in range(0, len(cached.body), _REPLAYED_TOGETHER_BYTES):
        if start:
            await asyncio.sleep(0)
        relay.receive(cached.body[start : start + _REPLAYED_TOGETHER_BYTES])
    relay.end()
    context.end()


def _annotated_usage(context: RequestContext, relay: EventRelay, event: bytes, is_only_usage: bool) -> bytes:
    """Counts the usage and returns what is passed on instead of its event; b"" hides the event.

    The gateway always requests the usage chunk from the provider. Many callers read `choices[0]` of every chunk, so
    the chunk without choices is passed on only to callers who have requested it.
    """
    if context.outcome is not Outcome.CACHED or context.usage is None:
        context.count(counted(relay.usage, context.bounds, lambda: relay.answer_tokens))
    if is_only_usage and not context.fields.requests_usage and context.headers.get(b"x-annotate") != b"on":
        return b""
    return context.annotated(event, time.monotonic())


def _keeping(receive: Callable[[bytes], None], kept: list[bytes]) -> Callable[[bytes], None]:
    """Returns `receive` with a copy of each piece put into `kept`."""

    def keep(data: bytes) -> None:
        kept.append(data)
        receive(data)

    return keep


def _end_with_error(context: RequestContext, error: ServiceError) -> None:
    """Ends a stream that has begun with an error event and without [DONE]. The status 200 has been sent already."""
    context.snapshot.conceal(error)
    if context.outcome is not Outcome.CANCELLED:
        context.outcome = Outcome.FAILED
        context.error_code = error.code
    context.error = error
    context.writer.send(error_event(error, context.request_id))
    context.end()


def _count_stream(context: RequestContext, relay: EventRelay) -> Usage:
    """Counts what has come of a stream, once it has ended in whatever way, and returns the usage."""
    usage = counted(relay.usage, context.bounds, lambda: relay.answer_tokens)
    if late := relay.tokens_after_usage:
        completion = min(usage.completion_tokens + late, context.bounds.most_completion)
        usage = replace(usage, completion_tokens=completion, estimated=True)
    context.reported = relay.usage
    context.count(usage)
    return usage
