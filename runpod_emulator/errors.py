"""The errors of the emulated APIs. Each carries its HTTP status; http.py alone turns them into JSON responses.

ApiError
├── BadRequest        400  the request is malformed, or a value is out of range
├── WorkerTimeout     400  the worker that a request is pinned to was not free in time
├── Unauthorized      401  no API key, or a wrong one
├── NotFound          404  no such endpoint or job, or the job's result has expired
│   └── AffinityWorkerGone  the worker that a request is pinned to has ended
├── Conflict          409  the state of a thing, or another thing, does not allow it
├── Gone              410  a version of an API that is switched off
├── TooLarge          413  the body is over the operation's limit
├── Unprocessable     422  the request is well formed, and fields of it are wrong
├── TooManyRequests   429  the operation's rate or concurrency limit is reached; has a Retry-After header
├── NotEmulated       501  RunPod has it, the emulator does not
├── NoWorker          503  no worker was free in time
├── WorkerFailed      a load balancer's worker failed at a request
│   ├── BadGateway        502  it gave no whole answer, or one over the limit
│   └── GatewayTimeout    504  it took too long
└── ProviderError     any  an emulated hosted provider's error, in OpenAI's form
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


class ApiError(Exception):
    """The root of the tree."""

    #: The HTTP status of the response.
    status = 500
    #: The `code` in the response's JSON; part of the API.
    code = "internal_error"

    #: One sentence for each wrong field, where they are told apart.
    errors: tuple[str, ...] = ()

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns the headers that the response has beside the usual ones."""
        return {}


class BadRequest(ApiError):
    """A malformed request. The message names the field."""

    status = 400
    code = "bad_request"


class Unauthorized(ApiError):
    """A request without the right key. The message gives no hint of what the key is."""

    status = 401
    code = "unauthorized"


class NotFound(ApiError):
    """A request for something that does not exist. The message names it."""

    status = 404
    code = "not_found"


class AffinityWorkerGone(NotFound):
    """A request that only one worker may serve, which has ended. The message names it."""

    code = "affinity_worker_gone"


class WorkerTimeout(ApiError):
    """A request that only one worker may serve, which was not free in time. The message names it."""

    status = 400
    code = "worker_timeout"


class Conflict(ApiError):
    """A request that the state of a thing, or another thing in the account, does not allow. The message names it."""

    status = 409
    code = "conflict"


class Gone(ApiError):
    """A request to an API that is switched off. The message says what to use instead."""

    status = 410
    code = "gone"


class TooLarge(ApiError):
    """A body over its limit. The message gives the limit in bytes."""

    status = 413
    code = "too_large"


class Unprocessable(ApiError):
    """A request of the right form with wrong fields. `errors` has one sentence for each."""

    status = 422
    code = "unprocessable"

    def __init__(self, message: str, errors: Sequence[str]) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class NotEmulated(ApiError):
    """A request for a part of RunPod that the emulator leaves out. The message names it."""

    status = 501
    code = "not_emulated"


class WorkerFailed(ApiError):
    """A load balancer's request that a worker had. `headers` name the worker."""

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self._headers = headers

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns the header with the worker's id."""
        return self._headers


class BadGateway(WorkerFailed):
    """A worker ended before its answer did, or has a larger one than may be sent."""

    status = 502
    code = "bad_gateway"


class NoWorker(ApiError):
    """A load balancer without a free worker. RunPod publishes its words, and no status."""

    status = 503
    code = "no_workers_available"


class GatewayTimeout(WorkerFailed):
    """A worker took longer for a request than it may."""

    status = 504
    code = "processing_timeout"


class TooManyRequests(ApiError):
    """A request over a rate limit. `retry_after_seconds` is at least 1."""

    status = 429
    code = "too_many_requests"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Returns Retry-After."""
        return {"Retry-After": str(self.retry_after_seconds)}


class ProviderError(ApiError):
    """A hosted provider's own error. `kind` and `code` are OpenAI's `type` and `code`."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.openai_code = code
        self.kind = kind
        self.param = param
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Returns Retry-After where the time is known, else no header."""
        return {} if self.retry_after_seconds is None else {"Retry-After": f"{self.retry_after_seconds:g}"}


class CannotListen(OSError):
    """The address of a server cannot be bound. Raised when it starts, and no API error."""

    def __init__(self, host: str, port: int, error: OSError | OverflowError) -> None:
        reason = "there is no such port" if isinstance(error, OverflowError) else _plain(error)
        super().__init__(
            f"Cannot listen on {host}:{port}: {reason}. Stop what listens there, or give another host and port; "
            "port 0 takes any free one."
        )


def _plain(error: OSError) -> str:
    """Returns the system's own words; asyncio puts longer ones into strerror."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else (error.strerror or type(error).__name__)
