"""Whether what came back from a place is an answer; else how the place failed, and what the caller would be told."""

from __future__ import annotations

import re
import time

from vllm_service.errors import ServiceError, UpstreamFailed
from vllm_service.gateway import outcomes
from vllm_service.gateway.answer_usage import usage_in
from vllm_service.gateway.call import Call, Sent
from vllm_service.gateway.provider_errors import callers_error, fault_error, providers_error, retry_after_of
from vllm_service.providers.protocol import CutShort, NotReached, ProviderFault, TimedOut
from vllm_service.routing.failures import Failure, Kind

# A provider that fails after it has said 200 says so in its first event, or in place of the answer.
_ERROR_EVENT = re.compile(rb'\s*(?:event: ?error|data: ?\{\s*"error"\s*:\s*[^n\s])')
_ERROR_BODY = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')
_KINDS = {NotReached: Kind.CONNECT, TimedOut: Kind.TIMEOUT, CutShort: Kind.CUT}


class NotAnswered(Exception):
    """This place failed. `error` is what the caller is told if there is no other."""

    def __init__(self, failure: Failure, error: ServiceError) -> None:
        super().__init__()
        self.failure = failure
        self.error = error
        self.is_told = False  # whether the course knows of it


def judge(call: Call, sent: Sent) -> None:
    """Router and breaker learn of it either way. The usage of a whole answer is kept in `sent`. Raises NotAnswered."""
    answer = sent.answer
    refuse = _refused if answer.status != 200 else _not_begun if answer.is_stream else _not_whole
    not_answered = refuse(sent, call.facts.model)
    if not_answered is not None:
        answer.close()
        failure = not_answered.failure
        outcomes.failed(call, sent, failure.told_status, failure.retry_after_seconds)
        raise not_answered
    sent.first_byte = now = time.monotonic()
    over = call.failing_over
    if sent.admission.is_probe:
        over.shared.answers(sent.step, sent.admission)
    if call.facts.stream:
        call.configured.router.first_token(sent.step, call.facts, now)
    if over.hedging is not None:
        over.hedging.began(sent.step, now - sent.at)


def not_reached(call: Call, sent: Sent, fault: ProviderFault) -> NotAnswered:
    """The place did not answer as HTTP wants it."""
    failure = Failure(_KINDS.get(type(fault), Kind.CUT))
    outcomes.failed(call, sent, failure.told_status, None)
    return NotAnswered(failure, fault_error(fault, call.facts.model))


def _refused(sent: Sent, model: str) -> NotAnswered:
    """By its status."""
    answer, status = sent.answer, sent.answer.status
    if 200 <= status < 400:
        return _no_answer(Kind.GARBAGE, model, "failed")
    failure = Failure(Kind.STATUS, status, retry_after_seconds=retry_after_of(answer.headers))
    return NotAnswered(failure, callers_error(answer) if failure.is_final else providers_error(answer, model))


def _not_begun(sent: Sent, model: str) -> NotAnswered | None:
    """None for a stream that may be passed on."""
    if not sent.answer.has_begun():
        return _no_answer(Kind.CUT, model, "ended the stream before it began")
    return _no_answer(Kind.GARBAGE, model, "failed") if _ERROR_EVENT.match(sent.answer.body) else None


def _not_whole(sent: Sent, model: str) -> NotAnswered | None:
    """None for a document that may be passed on."""
    body = sent.answer.body
    if _ERROR_BODY.match(body):
        return _no_answer(Kind.GARBAGE, model, "failed")
    try:
        sent.usage = usage_in(body)
    except ValueError:
        return _no_answer(Kind.GARBAGE, model, "answered with what is not a JSON object")
    return None


def _no_answer(kind: Kind, model: str, what: str) -> NotAnswered:
    return NotAnswered(Failure(kind), UpstreamFailed(f"A provider of {model!r} {what}.", details={"model": model}))
