"""Whether what came back from a provider is an answer; else how it failed, and the error for the caller."""

from __future__ import annotations

import re

from vllm_service.domain.usage import Usage
from vllm_service.errors import UpstreamFailed
from vllm_service.gateway.provider_errors import fault_error, refused
from vllm_service.gateway.usage import usage_in
from vllm_service.http.upstream import Answer, CutShort, NotReached, ProviderFault, TimedOut
from vllm_service.resilience.failures import Failure, Kind, NotAnswered

# A provider that fails after it has said 200 says so in its first event, or in place of the answer.
_ERROR_EVENT = re.compile(rb'\s*(?:event: ?error|data: ?\{\s*"error"\s*:\s*[^n\s])')
_ERROR_BODY = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')
_KINDS = {NotReached: Kind.CONNECT, TimedOut: Kind.TIMEOUT, CutShort: Kind.CUT}


def usage_of_answer(answer: Answer, model: str) -> Usage | None:
    """The usage that a whole answer names; None for a stream that has begun. Closes what is none: NotAnswered."""
    if answer.status != 200:
        not_answered = _refused(answer, model)
    elif answer.is_stream:
        not_begun = _not_begun(answer, model)
        if not_begun is None:
            return None
        not_answered = not_begun
    else:
        body = answer.body
        if not _ERROR_BODY.match(body):
            try:
                return usage_in(body)
            except ValueError:
                not_answered = _no_answer(Kind.GARBAGE, model, "answered with what is not a JSON object")
        else:
            not_answered = _no_answer(Kind.GARBAGE, model, "failed")
    answer.close()
    raise not_answered


def not_reached(fault: ProviderFault, model: str) -> NotAnswered:
    """The provider did not answer as HTTP wants it."""
    return NotAnswered(Failure(_KINDS.get(type(fault), Kind.CUT)), fault_error(fault, model))


def _refused(answer: Answer, model: str) -> NotAnswered:
    """By its status."""
    status = answer.status
    if 200 <= status < 400:
        return _no_answer(Kind.GARBAGE, model, "failed")
    return refused(status, answer.headers, answer.body, model)


def _not_begun(answer: Answer, model: str) -> NotAnswered | None:
    """None for a stream that may be passed on."""
    if not answer.has_begun():
        return _no_answer(Kind.CUT, model, "ended the stream before it began")
    return _no_answer(Kind.GARBAGE, model, "failed") if _ERROR_EVENT.match(answer.body) else None


def _no_answer(kind: Kind, model: str, what: str) -> NotAnswered:
    return NotAnswered(Failure(kind), UpstreamFailed(f"A provider of {model!r} {what}.", details={"model": model}))
