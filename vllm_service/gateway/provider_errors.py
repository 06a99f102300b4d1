"""Providers' errors in our codes: which are the caller's own, which another place may do better, and what is told."""

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
from vllm_service.providers.protocol import Answer, NotReached, ProviderFault, TimedOut
from vllm_service.routing.failures import retry_after_seconds

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


def callers_error(answer: Answer) -> ServiceError:
    """A provider's 4xx that is the caller's own, in our codes."""
    said = _said(answer.body)
    message = (said.message or f"The provider refused the request with status {answer.status}.")[:_LONGEST_MESSAGE]
    details = {"upstream_status": answer.status, "upstream_code": said.code, "upstream_type": said.type}
    if answer.status == 413 or (answer.status in (400, 422) and _is_about_context(said)):
        return ContextTooLong(message, param=said.param, details=details)
    if answer.status == 400:
        return InvalidRequest(message, param=said.param, details=details)
    return UpstreamError(answer.status, message, code=f"UPSTREAM_{answer.status}", param=said.param, details=details)


def providers_error(answer: Answer, model: str) -> ServiceError:
    """A provider's answer that nobody else could better: what the caller is told."""
    details = {"model": model, "upstream_status": answer.status}
    wait = retry_after_of(answer.headers)
    if answer.status == 429:
        message = f"Every provider of {model!r} is at its rate limit."
        return RateLimited(message, details=details, retry_after_seconds=1.0 if wait is None else wait)
    if answer.status == 404:
        return NotFound(f"The providers of {model!r} do not offer this operation, or not this model.", details=details)
    if answer.status == 503:
        message = f"The providers of {model!r} are not ready."
        details |= {"estimated_ready_time": wait, "fallback_available": False}
        return ModelUnavailable(message, details=details, retry_after_seconds=wait)
    if answer.status in (408, 504):
        return GatewayTimeout(f"The providers of {model!r} did not answer in time.", details=details)
    return UpstreamFailed(f"The providers of {model!r} failed; the last with status {answer.status}.", details=details)


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
