"""The client's errors as failed attempts: the same failure and the same error as the gateway makes of them."""

from __future__ import annotations

import httpx2
import openai

from vllm_service.client.errors import Unreachable
from vllm_service.errors import ServiceError, UpstreamFailed
from vllm_service.gateway.provider_errors import fault_error, refused
from vllm_service.http.upstream import CutShort, NotReached, ProviderFault, TimedOut
from vllm_service.resilience.failures import Failure, Kind, NotAnswered

_KINDS = {NotReached: Kind.CONNECT, TimedOut: Kind.TIMEOUT, CutShort: Kind.CUT}
_NOT_CONNECTED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


def not_answered(error: ServiceError, model: str) -> NotAnswered:
    """An attempt that failed with an error of client/connection.py before its first content."""
    cause = error.__cause__
    if isinstance(cause, openai.APIStatusError) and cause.status_code >= 400:
        wait = cause.response.headers.get("retry-after")
        headers = {} if wait is None else {b"retry-after": wait.encode("latin-1", "replace")}
        failed = refused(cause.status_code, headers, cause.response.content, model)
        failed.error.request_id = error.request_id
        return failed
    fault = _fault(error, cause)
    if fault is not None:
        return _not_reached(fault, model)
    told = UpstreamFailed(f"A provider of {model!r} failed.", details={"model": model})
    return NotAnswered(Failure(Kind.GARBAGE), told)


def timed_out(what: str, model: str) -> NotAnswered:
    """An attempt that took longer than it may."""
    return _not_reached(TimedOut(what), model)


def _not_reached(fault: ProviderFault, model: str) -> NotAnswered:
    return NotAnswered(Failure(_KINDS.get(type(fault), Kind.CUT)), fault_error(fault, model))


def _fault(error: ServiceError, cause: BaseException | None) -> ProviderFault | None:
    """What went wrong below HTTP; None where what came is HTTP, and no answer."""
    if isinstance(cause, openai.APIConnectionError):
        reason = cause.__cause__
        if isinstance(reason, _NOT_CONNECTED):
            return NotReached(type(reason).__name__)
        if isinstance(cause, openai.APITimeoutError):
            return TimedOut("the time for an answer is over")
        return CutShort(type(reason or cause).__name__)
    if isinstance(error, Unreachable):
        return CutShort(error.message)
    return None
