"""What can go wrong in the service. Each error carries its HTTP status, its public code, and whether a retry helps.

ServiceError
├── ConfigurationError      500  a file or the environment asks for something that cannot be; found at start-up
├── InvalidRequest          400  INVALID_REQUEST_400
├── Unauthorized            401  UNAUTHORIZED_401
├── Forbidden               403  FORBIDDEN_403
├── NotFound                404  NOT_FOUND_404
│   └── ModelNotFound       404  nobody serves a model of this name
├── MethodNotAllowed        405  METHOD_NOT_ALLOWED_405
├── RequestTimeout          408  REQUEST_TIMEOUT_408: the request did not arrive in time
├── ContextTooLong          413  CONTEXT_TOO_LONG_413
├── BodyTooLarge            413  BODY_TOO_LARGE_413
├── HeadTooLarge            431  HEAD_TOO_LARGE_431
├── QualityCheckFailed      422  QUALITY_CHECK_FAILED_422
├── RateLimited             429  RATE_LIMIT_429, with Retry-After
├── UpstreamFailed          502  UPSTREAM_502: the provider broke off, or answered with what is no answer
├── Overloaded              503  OVERLOADED_503: too many connections, or about to stop
├── ModelUnavailable        503  MODEL_503
│   └── CircuitOpen         503  CIRCUIT_BREAKER_503
├── StorageUnavailable      503  STORAGE_503: what keeps keys, limits or the ledger does not answer
├── GatewayTimeout          504  GATEWAY_TIMEOUT_504
└── UpstreamError           any  a provider's own error, passed on
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """The root of the tree. `message` is meant for the caller and holds no secret and no prompt text.

    kind: OpenAI's `type`, by which its SDKs and people sort errors.
    request_id, endpoint: which request it was, and where it was sent; the client fills them in.
    """

    status: int = 500
    code: str = "INTERNAL_500"
    kind: ClassVar[str] = "server_error"
    is_transient: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.details = dict(details or {})
        self.retry_after_seconds = retry_after_seconds
        self.request_id: str | None = None
        self.endpoint: str | None = None

    @property
    def status_code(self) -> int:
        """`status`, as openai's errors name it."""
        return self.status

    @property
    def retry_after(self) -> float | None:
        """`retry_after_seconds`, as the header names it."""
        return self.retry_after_seconds

    def to_json(self, request_id: str | None) -> dict[str, Any]:
        """`{"error": {"type", "code", "message", "param", "details", "request_id"}}`."""
        return {
            "error": {
                "type": self.kind,
                "code": self.code,
                "message": self.message,
                "param": self.param,
                "details": self.details,
                "request_id": request_id,
            }
        }


class ConfigurationError(ServiceError):
    """The configuration cannot be used; the service does not start, or keeps the one it has."""

    code = "CONFIGURATION_500"


class InvalidRequest(ServiceError):
    """The request is wrong; `param` names the field."""

    status, code, kind = 400, "INVALID_REQUEST_400", "invalid_request_error"


class Unauthorized(ServiceError):
    """No key, or none that is known."""

    status, code, kind = 401, "UNAUTHORIZED_401", "authentication_error"


class Forbidden(ServiceError):
    """The key is known and may not do this."""

    status, code, kind = 403, "FORBIDDEN_403", "permission_error"


class NotFound(ServiceError):
    """There is nothing at this path."""

    status, code, kind = 404, "NOT_FOUND_404", "not_found_error"


class ModelNotFound(NotFound):
    """No provider serves a model of this name."""

    def __init__(self, model: str, known: list[str]) -> None:
        names = ", ".join(sorted(known)) or "none is configured"
        super().__init__(f"There is no model {model!r} here. Models: {names}.", param="model", details={"model": model})


class MethodNotAllowed(ServiceError):
    """The path exists, for another method."""

    status, code, kind = 405, "METHOD_NOT_ALLOWED_405", "invalid_request_error"


class RequestTimeout(ServiceError):
    """The request did not arrive in time; the gateway has stopped waiting for the rest of it."""

    status, code, kind, is_transient = 408, "REQUEST_TIMEOUT_408", "timeout_error", True


class ContextTooLong(ServiceError):
    """Prompt and answer do not fit the model."""

    status, code, kind = 413, "CONTEXT_TOO_LONG_413", "invalid_request_error"


class BodyTooLarge(ServiceError):
    """The body is larger than the gateway accepts."""

    status, code, kind = 413, "BODY_TOO_LARGE_413", "invalid_request_error"


class HeadTooLarge(ServiceError):
    """The request's line and headers are larger than the gateway accepts."""

    status, code, kind = 431, "HEAD_TOO_LARGE_431", "invalid_request_error"


class QualityCheckFailed(ServiceError):
    """The answer did not pass the configured check."""

    status, code, kind = 422, "QUALITY_CHECK_FAILED_422", "quality_error"


class RateLimited(ServiceError):
    """A limit of the key, its organisation or the client's address, or of every provider, is used up for now."""

    status, code, kind, is_transient = 429, "RATE_LIMIT_429", "rate_limit_error", True


class UpstreamFailed(ServiceError):
    """The provider broke off, or answered with what is not an answer."""

    status, code, kind, is_transient = 502, "UPSTREAM_502", "upstream_error", True


class Overloaded(ServiceError):
    """The gateway takes no more connections for now."""

    status, code, kind, is_transient = 503, "OVERLOADED_503", "service_unavailable_error", True


class ModelUnavailable(ServiceError):
    """Nobody can serve the model now. details: model, estimated_ready_time, fallback_available."""

    status, code, kind, is_transient = 503, "MODEL_503", "service_unavailable_error", True


class CircuitOpen(ModelUnavailable):
    """Every provider of the model has been failing and is left alone for a while. details: circuit_breaker."""

    code = "CIRCUIT_BREAKER_503"


class StorageUnavailable(ServiceError):
    """The database or Redis does not answer, or not in time; nothing was taken from any limit."""

    status, code, kind, is_transient = 503, "STORAGE_503", "service_unavailable_error", True


class GatewayTimeout(ServiceError):
    """The provider did not answer in time."""

    status, code, kind, is_transient = 504, "GATEWAY_TIMEOUT_504", "timeout_error", True


class UpstreamError(ServiceError):
    """A provider's own error: its status, and of its body what callers can use."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, param=param, details=details)
        self.status = status
        self.code = code
        self.is_transient = status in (408, 409, 429) or status >= 500


def known_codes() -> frozenset[str]:
    """Every code of this file: what may be a metric's label. Not a provider's own, nor those of the client's errors."""
    found, left = set(), [ServiceError]
    while left:
        kind = left.pop()
        if kind.__module__ == __name__:
            found.add(kind.code)
        left.extend(kind.__subclasses__())
    return frozenset(found)
