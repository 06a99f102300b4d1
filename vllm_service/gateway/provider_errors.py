"""Providers' errors in our codes, for gateway and client: which are the caller's own, and which the provider's."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

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

_CONTEXT = ("context_length", "context length", "maximum context", "max_model_len", "too long", "reduce the length")
_LONGEST_MESSAGE = 2000


class _Said(msgspec.Struct):
    message: str | None = None
    param: str | None = None
    code: str | int | None = None
    type: str | None = None


class _Body(msgspec.Struct):
    error: _Said | str | None = None
    message: str | None = None
    detail: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Body, strict=False)


def retry_after_of(headers: Mapping[bytes, bytes]) -> float | None:
    """Retry-After in seconds, of either form; nonsense is None."""
    sent = headers.get(b"retry-after")
    return None if sent is None else retry_after_seconds(sent.decode("latin-1"), time.time())


def refused(status: int, headers: Mapping[bytes, bytes], body: bytes, model: str) -> NotAnswered:
    """An attempt that was answered with a status of 400 or more. headers: names in lower case."""
    wait = retry_after_of(headers)
    failure = Failure(Kind.STATUS, status, retry_after_seconds=wait)
    return NotAnswered(
        failure, callers_error(status, body) if failure.is_final else providers_error(status, wait, model)
    )


def callers_error(status: int, body: bytes) -> ServiceError:
    """A provider's 4xx that is the caller's own, in our codes."""
    said = _said(body)
    message = (said.message or f"The provider refused the request with status {status}.")[:_LONGEST_MESSAGE]
    details = {"upstream_status": status, "upstream_code": said.code, "upstream_type": said.type}
    if status == 413 or (status in (400, 422) and _is_about_context(said)):
        return ContextTooLong(message, param=said.param, details=details)
    if status == 400:
        return InvalidRequest(message, param=said.param, details=details)
    return UpstreamError(status, message, code=f"UPSTREAM_{status}", param=said.param, details=details)


def providers_error(status: int, wait: float | None, model: str) -> ServiceError:
    """A status that is the provider's fault, as the caller gets it where no other provider does better.

    wait: its Retry-After in seconds.
    """
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
    """The same for a provider that did not answer at all."""
    details = {"model": model}
    if isinstance(fault, NotReached):
        message = f"The providers of {model!r} cannot be reached."
        return ModelUnavailable(message, details={**details, "estimated_ready_time": None, "fallback_available": False})
    if isinstance(fault, TimedOut):
        return GatewayTimeout(f"The providers of {model!r} did not answer in time: {fault}.", details=details)
    return UpstreamFailed(f"The providers of {model!r} broke off: {fault}.", details=details)


def _said(body: bytes) -> _Said:
    try:
        document = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()
    if isinstance(document.error, _Said):
        return document.error
    return _Said(message=document.error or document.message)


def _is_about_context(said: _Said) -> bool:
    text = f"{said.code} {said.message}".lower()
    return any(sign in text for sign in _CONTEXT)
