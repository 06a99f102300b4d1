"""What the emulated APIs refuse. Each error carries its HTTP status and is answered as JSON, once, in http.py.

ApiError
├── BadRequest        400  the request is not one that RunPod understands
├── Unauthorized      401  no API key, or another endpoint's
├── NotFound          404  no such endpoint or job; or its result is no longer kept
├── TooLarge          413  the body is over the operation's limit
├── TooManyRequests   429  over the rate or the concurrency of the operation; says when to come back
└── ProviderError     any  what an emulated hosted provider refuses, in OpenAI's form
"""

from __future__ import annotations


class ApiError(Exception):
    """The root of the tree."""

    status = 500
    code = "internal_error"

    @property
    def headers(self) -> dict[str, str]:
        """Further headers of the answer."""
        return {}


class BadRequest(ApiError):
    """The message names the field."""

    status = 400
    code = "bad_request"


class Unauthorized(ApiError):
    """Says nothing about which keys would do."""

    status = 401
    code = "unauthorized"


class NotFound(ApiError):
    """The message names what was looked for."""

    status = 404
    code = "not_found"


class TooLarge(ApiError):
    """The message gives the limit in bytes."""

    status = 413
    code = "too_large"


class TooManyRequests(ApiError):
    """`retry_after_seconds` is at least 1."""

    status = 429
    code = "too_many_requests"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds

    @property
    def headers(self) -> dict[str, str]:
        """When to come back."""
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
        """When to come back, where that is known."""
        return {} if self.retry_after_seconds is None else {"Retry-After": f"{self.retry_after_seconds:g}"}
