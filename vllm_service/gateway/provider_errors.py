"""Turns providers' errors into the service's own, for gateway and client.

An error that the caller has caused keeps the provider's message. An error of the provider's making gets a message of
ours: it is what the caller gets if no other provider does better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from vllm_service.domain.answers import Judgement, Verdict
from vllm_service.errors import (
    ContextTooLong,
    GatewayTimeout,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    RateLimited,
    ServiceError,
    UpstreamError,
    UpstreamFailed,
)
from vllm_service.http.upstream import NotReached, ProviderFault, TimedOut
from vllm_service.resilience.failures import Failure, Kind, NotAnswered, retry_after_seconds

# Engines and providers word this differently; one of these is in the code or the message of each that is known.
_CONTEXT_PHRASES = (
    "context_length",
    "context length",
    "maximum context",
    "max_model_len",
    "too long",
    "reduce the length",
)
_LONGEST_MESSAGE = 2000


class _ErrorMember(msgspec.Struct):
    message: str | None = None
    param: str | None = None
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct):
    """The forms of an error's body: OpenAI's object, a plain text, or a message without an object around it."""

    error: _ErrorMember | str | None = None
    message: str | None = None
    detail: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_ErrorBody, strict=False)


def retry_after_of(headers: Mapping[bytes, bytes]) -> float | None:
    """Returns the seconds of Retry-After, which holds seconds or a date; None if it is absent or neither."""
    header = headers.get(b"retry-after")
    return None if header is None else retry_after_seconds(header.decode("latin-1"), time.time())


def refused(status: int, headers: Mapping[bytes, bytes], body: bytes, model: str) -> NotAnswered:
    """Returns the failure of an attempt that was answered with a status of 400 or more.

    headers: names in lower case.
    """
    wait = retry_after_of(headers)
    failure = Failure(Kind.STATUS, status, retry_after_seconds=wait)
    return NotAnswered(
        failure, callers_error(status, body) if failure.is_final else providers_error(status, wait, model)
    )


def not_an_answer(judgement: Judgement, headers: Mapping[bytes, bytes], model: str) -> NotAnswered:
    """Returns the failure of an attempt whose answer came with status 200 and is none.

    An error that names a status is treated as if it had come with that status. headers: names in lower case.
    """
    if judgement.status:
        return refused(judgement.status, headers, judgement.document, model)
    kind = Kind.CUT if judgement.verdict is Verdict.INCOMPLETE else Kind.GARBAGE
    error = UpstreamFailed(f"A provider of {model!r} {judgement.reason}.", details={"model": model})
    return NotAnswered(Failure(kind), error)


def callers_error(status: int, body: bytes) -> ServiceError:
    """Returns the error for a provider's 4xx that the caller has caused, with the provider's message."""
    error = _error_in(body)
    message = (error.message or f"The provider refused the request with status {status}.")[:_LONGEST_MESSAGE]
    details = {"upstream_status": status, "upstream_code": error.code, "upstream_type": error.type}
    if status == 413 or (status in (400, 422) and _is_about_context(error)):
        return ContextTooLong(message, param=error.param, details=details)
    if status == 400:
        return InvalidRequest(message, param=error.param, details=details)
    return UpstreamError(status, message, code=f"UPSTREAM_{status}", param=error.param, details=details)


def providers_error(status: int, wait: float | None, model: str) -> ServiceError:
    """Returns the error for a status that is the provider's fault. wait: the provider's Retry-After in seconds."""
    details: dict[str, object] = {"model": model, "upstream_status": status}
    if status == 429:
        message = f"Every provider of {model!r} is at its rate limit."
        return RateLimited(message, details=details, retry_after_seconds=1.0 if wait is None else wait)
    if status == 404:
        return NotFound(f"The providers of {model!r} do not offer this operation, or not this model.", details=details)
    if status == 503:
        message = f"The providers of {model!r} are not ready."
        details |= {"estimated_ready_time": wait, "fallback_available": False}
        return ModelUnavailable(message, details=details, retry_after_seconds=wait)
    if status in (408, 504):
        return GatewayTimeout(f"The providers of {model!r} did not answer in time.", details=details)
    return UpstreamFailed(f"The providers of {model!r} failed; the last with status {status}.", details=details)


def fault_error(fault: ProviderFault, model: str) -> ServiceError:
    """Returns the error for a provider that did not answer, or broke off."""
    details = {"model": model}
    if isinstance(fault, NotReached):
        message = f"The providers of {model!r} cannot be reached."
        return ModelUnavailable(message, details={**details, "estimated_ready_time": None, "fallback_available": False})
    if isinstance(fault, TimedOut):
        return GatewayTimeout(f"The providers of {model!r} did not answer in time: {fault}.", details=details)
    return UpstreamFailed(f"The providers of {model!r} broke off: {fault}.", details=details)


def _error_in(body: bytes) -> _ErrorMember:
    """Returns the error that a body holds; one without members if it is not JSON or of another shape."""
    try:
        document = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _ErrorMember()
    if isinstance(document.error, _ErrorMember):
        return document.error
    return _ErrorMember(message=document.error or document.message)


def _is_about_context(error: _ErrorMember) -> bool:
    text = f"{error.code} {error.message}".lower()
    return any(phrase in text for phrase in _CONTEXT_PHRASES)
