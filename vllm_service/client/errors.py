"""The client's errors: the SDK's errors, HTTP statuses and FAILED jobs as errors of one tree, vllm_service.errors.

The client adds to that tree:

ServiceError
├── UpstreamFailed
│   ├── Unreachable         502  no connection, or it broke before the answer was whole
│   └── StreamBroken        502  the stream broke after it had begun; it is not retried
├── JobCancelled            409  the job was cancelled by this or another client
└── BatchFailed             502  some prompts of a batch have no answer; `items` has the result of every prompt
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import openai

from vllm_service import errors
from vllm_service.client.payload import request_id
from vllm_service.client.results import BatchItem
from vllm_service.domain.answers import Judgement
from vllm_service.domain.refusals import Meaning, meaning_of
from vllm_service.errors import ServiceError, UpstreamError, UpstreamFailed
from vllm_service.resilience.failures import retry_after_seconds

BY_STATUS: Mapping[int, type[ServiceError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
    429: errors.RateLimited,
    502: errors.UpstreamFailed,
    503: errors.ModelUnavailable,
    504: errors.GatewayTimeout,
}


class Unreachable(UpstreamFailed):
    """No connection could be made, or it ended before the answer did."""


class StreamBroken(UpstreamFailed):
    """The stream ended before the answer did. It is not retried, because part of the answer has been handed out."""

    is_transient = False


class BadAnswer(Exception):
    """An answer with status 200 that is none. The cause of the ServiceError that is raised for it."""

    def __init__(self, judgement: Judgement, headers: Mapping[str, str]) -> None:
        super().__init__(judgement.reason)
        self.judgement = judgement
        #: Of the response.
        self.headers = headers


class JobCancelled(ServiceError):
    """The job was cancelled; it has no answer."""

    status, code, kind = 409, "JOB_CANCELLED_409", "cancelled_error"


class BatchFailed(ServiceError):
    """Some prompts have no answer. `items` has all results in order, also the answers."""

    status, code, kind = 502, "BATCH_502", "upstream_error"

    def __init__(self, items: Sequence[BatchItem]) -> None:
        self.items = tuple(items)
        failed = [item for item in self.items if item.error is not None]
        first = failed[0].error if failed else None
        super().__init__(
            f"{len(failed)} of {len(self.items)} prompts have no answer; the first: {first}. See items",
            details={"failed": [item.index for item in failed]},
        )


def from_sdk(error: openai.OpenAIError, endpoint: str, *, begun: bool = False) -> ServiceError:
    """Returns the error for one of the SDK's. begun: text of this answer has been handed out already."""
    if isinstance(error, openai.APIStatusError):
        return from_answer(error.status_code, error.body, error.response.headers, endpoint)
    if isinstance(error, openai.APITimeoutError) and not begun:
        return at_endpoint(errors.GatewayTimeout(f"{endpoint} did not answer in time"), endpoint)
    if isinstance(error, openai.APIConnectionError):
        reason = type(error.__cause__ or error).__name__
        kind = StreamBroken if begun else Unreachable
        return at_endpoint(kind(f"the connection to {endpoint} failed: {reason}"), endpoint)
    return at_endpoint(UpstreamFailed(f"{endpoint}: {type(error).__name__}"), endpoint)


def from_answer(status: int, body: object, headers: Mapping[str, str], endpoint: str) -> ServiceError:
    """Returns the error for an HTTP error response. body: OpenAI's error object, or any other body."""
    error = from_document(status, body)
    error.retry_after_seconds = retry_after_seconds(headers.get("retry-after"), time.time())
    error.request_id = request_id(headers)
    return at_endpoint(error, endpoint)


def from_judgement(bad: BadAnswer, endpoint: str, *, begun: bool) -> ServiceError:
    """Returns the error for an answer with status 200 that is none. begun: a part of it has been handed out.

    An error that names a status is the same as if it had come with that status; all others are 502.
    """
    judgement = bad.judgement
    status = judgement.status or 502
    body = json.loads(judgement.document) if judgement.document else {}
    inner = _field(body, "error")
    message = inner if isinstance(inner, str) else _field(inner, "message")
    text = message if isinstance(message, str) and message else f"{endpoint} {judgement.reason}"
    if begun:
        return at_endpoint(StreamBroken(text, details={"status": status}), endpoint)
    words = {name: _field(inner, name) for name in ("param", "code", "type")}
    error = from_document(status, {"message": text, **words})
    error.retry_after_seconds = retry_after_seconds(bad.headers.get("retry-after"), time.time())
    error.request_id = request_id(bad.headers)
    return at_endpoint(error, endpoint)


def from_job(error_text: str | None, endpoint: str) -> ServiceError:
    """Returns the error of a FAILED job: the engine's own if the text is `{"error": {...}, "status": N}`, else 500."""
    try:
        document = json.loads(error_text or "")
    except ValueError:
        document = None
    status = document.get("status") if isinstance(document, dict) else None
    if isinstance(document, dict) and isinstance(status, int) and 400 <= status < 600:
        return at_endpoint(from_document(status, document.get("error")), endpoint)
    return at_endpoint(
        UpstreamError(500, error_text or "the job failed without an error text", code="JOB_500"), endpoint
    )


def from_document(status: int, body: object) -> ServiceError:
    """Returns an error of the status's class, with the message and param of an OpenAI error object."""
    nested = _field(body, "error")
    body = nested if isinstance(nested, Mapping) else body
    param = _field(body, "param")
    param = param if isinstance(param, str) else None
    text = message_of(body, status)
    # As the gateway has it: a context that is too short has many statuses.
    meaning = meaning_of(status, _field(body, "code"), _field(body, "type"), text)
    kind = errors.ContextTooLong if meaning is Meaning.CONTEXT else BY_STATUS.get(status)
    if kind is None:
        return UpstreamError(status, text, code=f"UPSTREAM_{status}", param=param)
    return kind(text, param=param)


def at_endpoint(error: ServiceError, endpoint: str) -> ServiceError:
    """Sets the endpoint to which the request was sent, and returns the error."""
    error.endpoint = endpoint
    return error


def message_of(body: object, status: int) -> str:
    """Returns the error object's message, else the name of the status. Any other body, such as HTML, is left out."""
    message = _field(body, "message")
    return message if isinstance(message, str) and message else _phrase(status)


def _field(body: object, name: str) -> Any:
    return body.get(name) if isinstance(body, Mapping) else None


def _phrase(status: int) -> str:
    try:
        return f"the answer was {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"the answer was {status}"
