"""The errors of the service. Each has its HTTP status, its public code, and whether a retry can help.

ServiceError
├── ConfigurationError      500  CONFIGURATION_500: a file, variable or argument is wrong; found at start-up
├── InvalidRequest          400  INVALID_REQUEST_400
│   └── ContextTooLong      400  context_length_exceeded, as OpenAI names it; details.code: CONTEXT_TOO_LONG_413
├── Unauthorized            401  UNAUTHORIZED_401
├── Forbidden               403  FORBIDDEN_403
├── NotFound                404  NOT_FOUND_404
│   └── ModelNotFound       404  no provider serves a model of this name
├── MethodNotAllowed        405  METHOD_NOT_ALLOWED_405
├── RequestTimeout          408  REQUEST_TIMEOUT_408: the request did not arrive in time
├── BodyTooLarge            413  BODY_TOO_LARGE_413
├── HeadTooLarge            431  HEAD_TOO_LARGE_431
├── QualityCheckFailed      422  QUALITY_CHECK_FAILED_422
├── RateLimited             429  RATE_LIMIT_429, with Retry-After
├── StorageRefused          500  STORAGE_500: the database or Redis refuses these values; others are accepted
├── UpstreamFailed          502  UPSTREAM_502: the provider broke off, or its answer is invalid
├── Overloaded              503  OVERLOADED_503: too many connections, none free to a provider, or about to stop
├── ModelUnavailable        503  MODEL_503
│   └── CircuitOpen         503  CIRCUIT_BREAKER_503
├── StorageUnavailable      503  STORAGE_503: the database or Redis does not answer
├── GatewayTimeout          504  GATEWAY_TIMEOUT_504
└── UpstreamError           any  a provider's own error, passed on
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, ClassVar


class ServiceError(Exception):
    """The root of the tree."""

    #: The HTTP status.
    status: int = 500
    #: The public code, which callers may rely on.
    code: str = "INTERNAL_500"
    #: OpenAI's `type` of error.
    kind: ClassVar[str] = "server_error"
    #: True if the same request may succeed later.
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
        #: For callers: it holds no secret and no prompt text.
        self.message = message
        #: The field, variable or path that is wrong.
        self.param = param
        self.details = dict(details or {})
        self.retry_after_seconds = retry_after_seconds
        #: Which request failed, and the URL it was sent to. The client sets both.
        self.request_id: str | None = None
        self.endpoint: str | None = None

    @property
    def status_code(self) -> int:
        """`status`, by the name that OpenAI's SDK uses."""
        return self.status

    @property
    def retry_after(self) -> float | None:
        """`retry_after_seconds`, by the header's name."""
        return self.retry_after_seconds

    def to_json(self, request_id: str | None) -> dict[str, Any]:
        """Returns `{"error": {"type", "code", "message", "param", "details", "request_id"}}`."""
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
    """The configuration cannot be used. The service does not start, or goes on with the one it has."""

    code = "CONFIGURATION_500"


class ConfigurationFaults:
    """Collects the errors of one configuration, so that all of them are reported at once and not one by one."""

    def __init__(self) -> None:
        self._found: dict[str, ConfigurationError] = {}

    def __bool__(self) -> bool:
        """Returns true if there is an error."""
        return bool(self._found)

    def add(self, error: ConfigurationError) -> None:
        """Keeps the error. One with the same message is kept once."""
        self._found.setdefault(error.message, error)

    def __enter__(self) -> None:
        """Keeps the ConfigurationError that the body raises; the code after the body runs on."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ConfigurationError):
            return False
        self.add(error)
        return True

    def raise_all(self) -> None:
        """Raises the error, or one with the messages of all, a line each; does nothing if there is none."""
        errors = list(self._found.values())
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ConfigurationError("\n".join(self._found), param=errors[0].param)


class InvalidRequest(ServiceError):
    """The request is wrong; `param` names the field."""

    status = 400
    code = "INVALID_REQUEST_400"
    kind = "invalid_request_error"


class ContextTooLong(InvalidRequest):
    """The prompt and the requested answer do not fit into the model's context.

    Status and code are OpenAI's, which its SDKs raise as BadRequestError and callers look for. This service's own
    code is in the details.
    """

    code = "context_length_exceeded"

    def __init__(self, message: str, *, param: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, param=param, details={"code": "CONTEXT_TOO_LONG_413", **(details or {})})


class Unauthorized(ServiceError):
    """The key is missing, unknown or revoked."""

    status = 401
    code = "UNAUTHORIZED_401"
    kind = "authentication_error"


def key_needed() -> Unauthorized:
    """Returns the error for a request without a key."""
    return Unauthorized("A key is needed: send it as `Authorization: Bearer KEY`.")


def key_unknown() -> Unauthorized:
    """Returns the error for a key that is not in the store. It repeats nothing of what was sent."""
    return Unauthorized("This key is unknown, or it has been revoked: ask the gateway's operator for another.")


class Forbidden(ServiceError):
    """The key is valid and may not do this."""

    status = 403
    code = "FORBIDDEN_403"
    kind = "permission_error"


class NotFound(ServiceError):
    """There is nothing at this path."""

    status = 404
    code = "NOT_FOUND_404"
    kind = "not_found_error"


class ModelNotFound(NotFound):
    """No provider serves a model of this name."""

    def __init__(self, model: str, models: list[str]) -> None:
        names = ", ".join(sorted(models)) or "none is configured"
        super().__init__(f"There is no model {model!r} here. Models: {names}.", param="model", details={"model": model})


class MethodNotAllowed(ServiceError):
    """The path exists for another method only."""

    status = 405
    code = "METHOD_NOT_ALLOWED_405"
    kind = "invalid_request_error"


class RequestTimeout(ServiceError):
    """The request did not arrive in time. The gateway has stopped waiting for the rest of it."""

    status = 408
    code = "REQUEST_TIMEOUT_408"
    kind = "timeout_error"
    is_transient = True


class BodyTooLarge(ServiceError):
    """The body is larger than the gateway, or every provider, accepts."""

    status = 413
    code = "BODY_TOO_LARGE_413"
    kind = "invalid_request_error"


class HeadTooLarge(ServiceError):
    """The request's line and headers are larger than the gateway accepts."""

    status = 431
    code = "HEAD_TOO_LARGE_431"
    kind = "invalid_request_error"


class QualityCheckFailed(ServiceError):
    """The answer did not pass the configured check."""

    status = 422
    code = "QUALITY_CHECK_FAILED_422"
    kind = "quality_error"


class RateLimited(ServiceError):
    """A limit of the key, its organisation or the client's address, or of every provider, is used up for now."""

    status = 429
    code = "RATE_LIMIT_429"
    kind = "rate_limit_error"
    is_transient = True


class UpstreamFailed(ServiceError):
    """The provider broke off, or its answer is invalid."""

    status = 502
    code = "UPSTREAM_502"
    kind = "upstream_error"
    is_transient = True


class Overloaded(ServiceError):
    """The gateway accepts no more connections for now, or has none free to any provider of the model."""

    status = 503
    code = "OVERLOADED_503"
    kind = "service_unavailable_error"
    is_transient = True


class ModelUnavailable(ServiceError):
    """No provider can serve the model now. details: model, estimated_ready_time, fallback_available."""

    status = 503
    code = "MODEL_503"
    kind = "service_unavailable_error"
    is_transient = True


class CircuitOpen(ModelUnavailable):
    """The breakers of all offers of the model are open. details: circuit_breaker."""

    code = "CIRCUIT_BREAKER_503"


class StorageUnavailable(ServiceError):
    """The database or Redis does not answer in time. Nothing was taken from any limit."""

    status = 503
    code = "STORAGE_503"
    kind = "service_unavailable_error"
    is_transient = True


class StorageRefused(ServiceError):
    """The database or Redis answers, and refuses these values: a number beyond 64 bits, a text with NUL."""

    code = "STORAGE_500"


class GatewayTimeout(ServiceError):
    """The provider did not answer in time."""

    status = 504
    code = "GATEWAY_TIMEOUT_504"
    kind = "timeout_error"
    is_transient = True


class UpstreamError(ServiceError):
    """A provider's own error: its status, and the part of its body that callers can use."""

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


_REMEDIES = {
    errno.ENOSPC: "Make room on that disk.",
    errno.EDQUOT: "Make room within the quota.",
    errno.EROFS: "Mount it so that it can be written, or name another directory.",
    errno.EACCES: "Change its permissions or owner.",
    errno.EPERM: "Change its permissions or owner.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
    errno.ENFILE: "Raise the machine's limit of open files (fs.file-max).",
    errno.ENOMEM: "Give it more memory.",
    errno.EIO: "Check the disk.",
}


def one_line(error: OSError) -> str:
    """Returns what the operating system refuses, where, and what to do, as a line for standard error."""
    reason = error.strerror or str(error) or type(error).__name__
    where = f"{error.filename}: " if error.filename is not None else ""
    code = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return f"{where}{reason} ({code}). {_REMEDIES.get(error.errno or 0, 'The log may have more.')}"


def known_codes() -> frozenset[str]:
    """Returns every code of this file: a metric's labels. Codes of providers and of the client are not among them."""
    found = set()
    remaining = [ServiceError]
    while remaining:
        kind = remaining.pop()
        if kind.__module__ == __name__:
            found.add(kind.code)
        remaining.extend(kind.__subclasses__())
    return frozenset(found)
