"""Turns providers' errors into the service's own, for gateway and client.

An error that the caller has caused keeps the provider's message. An error of the provider's making gets a message of
ours: it is what the caller gets if no other provider does better.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from vllm_service.domain.answers import Judgement, Verdict
from vllm_service.domain.in_band_errors import error_message, error_places, loaded_error
from vllm_service.domain.quotas import try_again
from vllm_service.domain.refusals import Meaning, meaning_of
from vllm_service.errors import (
    BodyTooLarge,
    ContextTooLong,
    GatewayTimeout,
    InvalidRequest,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RateLimited,
    ServiceError,
    UpstreamError,
    UpstreamFailed,
)
from vllm_service.http.upstream import CutShort, NoFreeConnection, NotReached, OutOfTime, ProviderFault, TimedOut
from vllm_service.resilience.failures import Failure, Kind, NotAnswered, retry_after_seconds

_LONGEST_MESSAGE = 2000
_MOST_FAULTS = 8
_KINDS = {
    NoFreeConnection: Kind.BUSY,
    NotReached: Kind.CONNECT,
    TimedOut: Kind.TIMEOUT,
    OutOfTime: Kind.DEADLINE,
    CutShort: Kind.CUT,
}
#: The Retry-After where no connection was free: running answers end at any time.
_BUSY_RETRY_AFTER_SECONDS = 1.0
#: Statuses whose message is about the request, so that the caller may get it where every offer has refused.
_OF_THE_REQUEST = frozenset({400, 413, 422})


class ErrorWords(NamedTuple):
    """The words of a provider's error. Each is read on its own; None where there is none, or no text."""

    message: str | None = None
    param: str | None = None
    #: Some providers, vLLM among them, write a number here.
    code: str | int | None = None
    type: str | None = None


def retry_after_of(headers: Mapping[bytes, bytes]) -> float | None:
    """Returns the seconds of Retry-After, which holds seconds or a date; None if it is absent or neither."""
    header = headers.get(b"retry-after")
    return None if header is None else retry_after_seconds(header.decode("latin-1"), time.time())


def refused(status: int, headers: Mapping[bytes, bytes], body: bytes, model: str) -> NotAnswered:
    """Returns the failure of an attempt that was answered with a status of 400 or more.

    headers: names in lower case.
    """
    wait = retry_after_of(headers)
    words = error_words(body)
    meaning = meaning_of(status, words.code, words.type, words.message)
    failure = Failure(
        Kind.STATUS,
        status,
        retry_after_seconds=wait,
        refusal=meaning,
        may_be_running=meaning is Meaning.UNFINISHED,
    )
    if meaning in (Meaning.CALLER, Meaning.CONTEXT) or (meaning is Meaning.OFFER and status in _OF_THE_REQUEST):
        return NotAnswered(failure, callers_error(status, meaning, words), words.message or "")
    return NotAnswered(failure, providers_error(status, meaning, wait, model), words.message or "")


def not_an_answer(judgement: Judgement, headers: Mapping[bytes, bytes], model: str) -> NotAnswered:
    """Returns the failure of an attempt whose answer came with status 200 and is none.

    An error that names a status is treated as if it had come with that status. headers: names in lower case.
    """
    if judgement.status:
        return refused(judgement.status, headers, judgement.document, model)
    kind = Kind.CUT if judgement.verdict is Verdict.INCOMPLETE else Kind.GARBAGE
    error = UpstreamFailed(f"A provider of {model!r} {judgement.reason}.", details={"model": model})
    return NotAnswered(Failure(kind), error)


def callers_error(status: int, meaning: Meaning, words: ErrorWords) -> ServiceError:
    """Returns the error for a provider's 4xx that the caller can change something about, with the provider's words."""
    message = (words.message or f"The provider refused the request with status {status}.")[:_LONGEST_MESSAGE]
    details = {"upstream_status": status, "upstream_code": words.code, "upstream_type": words.type}
    if meaning is Meaning.CONTEXT:
        return ContextTooLong(message, param=words.param, details=details)
    if status == 400:
        return InvalidRequest(message, param=words.param, details=details)
    if status == 413:
        return BodyTooLarge(message, param=words.param, details=details)
    return UpstreamError(status, message, code=f"UPSTREAM_{status}", param=words.param, details=details)


def providers_error(status: int, meaning: Meaning, wait: float | None, model: str) -> ServiceError:
    """Returns the error for a status that the caller has not caused. wait: the provider's Retry-After in seconds."""
    details: dict[str, object] = {"model": model, "upstream_status": status}
    if meaning is Meaning.THROTTLED:
        message = f"Every provider of {model!r} is at its rate limit."
        return RateLimited(message, details=details, retry_after_seconds=1.0 if wait is None else wait)
    if meaning is Meaning.OVERSIZED:
        message = f"This request alone is above the rate limit of the providers of {model!r}: shorten it. Do not retry."
        return RateLimited(message, details=details)
    if status == 404:
        return NotFound(f"The providers of {model!r} do not offer this operation, or not this model.", details=details)
    if status == 503:
        message = f"The providers of {model!r} are not ready."
        details |= {"estimated_ready_time": wait, "fallback_available": False}
        return ModelUnavailable(message, details=details, retry_after_seconds=wait)
    if status == 408 or meaning is Meaning.UNFINISHED:
        return GatewayTimeout(f"The providers of {model!r} did not answer in time.", details=details)
    return UpstreamFailed(f"The providers of {model!r} failed; the last with status {status}.", details=details)


def not_reached(fault: ProviderFault, model: str) -> NotAnswered:
    """Returns the failure of an attempt that got no answer by HTTP's rules."""
    kind = _KINDS.get(type(fault), Kind.CUT)
    return NotAnswered(Failure(kind, may_be_running=fault.may_be_running), fault_error(fault, model))


def fault_error(fault: ProviderFault, model: str) -> ServiceError:
    """Returns the error for a provider that did not answer, or broke off."""
    details = {"model": model}
    if isinstance(fault, NoFreeConnection):
        then = try_again(_BUSY_RETRY_AFTER_SECONDS)
        message = f"No connection to the providers of {model!r} could be had: {fault}; {then}."
        return Overloaded(message, details=details, retry_after_seconds=_BUSY_RETRY_AFTER_SECONDS)
    if isinstance(fault, NotReached):
        message = f"The providers of {model!r} cannot be reached."
        return ModelUnavailable(message, details={**details, "estimated_ready_time": None, "fallback_available": False})
    if isinstance(fault, TimedOut):
        return GatewayTimeout(f"The providers of {model!r} did not answer in time: {fault}.", details=details)
    return UpstreamFailed(f"The providers of {model!r} broke off: {fault}.", details=details)


def error_words(body: bytes) -> ErrorWords:
    """Returns what an error's body says; nothing if it is not JSON or of another shape.

    Forms: OpenAI's object, a plain text, a message without an object around it, FastAPI's `detail`, and any of them in
    a list or within one another.
    """
    try:
        places = error_places(loaded_error(body))
    except ValueError:
        return ErrorWords()
    details = (_faults(place.get("detail")) for place in places)
    codes = (place.get("code") for place in places)
    kinds = (_text(place.get(name)) for place in places for name in ("type", "status"))
    return ErrorWords(
        error_message(places) or next((text for text in details if text), None),
        next((text for place in places if (text := _text(place.get("param")))), None),
        next((code for code in codes if isinstance(code, str | int)), None),
        next((text for text in kinds if text), None),
    )


def _faults(value: object) -> str | None:
    """Returns FastAPI's `detail` where it lists what is wrong with which fields. The fields' values are left out."""
    if not isinstance(value, list):
        return None
    faults = [fault for fault in value[:_MOST_FAULTS] if isinstance(fault, dict)]
    return "; ".join(f"{_location(fault.get('loc'))}: {fault.get('msg')}" for fault in faults) or None


def _location(value: object) -> str:
    return ".".join(str(part) for part in value) if isinstance(value, list) else "body"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
