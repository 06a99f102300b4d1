"""Everything that can go wrong in the worker, each with its HTTP status, public code, and whether a retry helps.

WorkerError
├── ConfigurationError    500  the environment asks for something impossible; found at the start
│   └── ModelRefused      500  the model does not exist or is not accessible; a retry does not help
├── InvalidInput          400  the job's input has none of the known forms
├── EngineError           any  vLLM answered with anything but 2xx: its status and body, unchanged
├── StreamBroken          502  the engine's stream ended in the middle of an event
├── EngineUnavailable     503  the engine is not running, or died
│   └── NotBegun          503  the same, and the request has not reached it
└── ModelUnavailable      503  the model is on no disk and cannot be fetched now
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any


def phrase(status: int) -> str:
    """Returns the words of an HTTP status; "HTTP 520" for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"HTTP {status}"


def _error_type(status: int) -> str:
    """Returns the name of an error of this status in the style of vLLM: NotFoundError, InternalServerError."""
    return phrase(status).replace(" ", "").removesuffix("Error") + "Error"


class WorkerError(Exception):
    """The root of the tree. `message` goes to the caller of the job and holds no secret and no prompt text."""

    status = 500
    code = "worker_error"
    retryable = False

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def to_json(self) -> dict[str, Any]:
        """Returns vLLM's form of an error and two facts more.

        `{"error": {"message", "type", "code", "param"}, "status", "retryable"}`
        """
        kind = _error_type(self.status)
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param}
        return {"error": error, "status": self.status, "retryable": self.retryable}

    def to_json_text(self) -> str:
        """Returns `to_json` as the one string that a failed RunPod job carries."""
        return json.dumps(self.to_json(), ensure_ascii=False)


class ConfigurationError(WorkerError):
    """The environment cannot be used as it is; the worker does not start."""

    code = "configuration_error"


class ModelRefused(ConfigurationError):
    """The model cannot be had as configured: no such name or revision, no access, no room on the disk.

    `param` is None where the name itself is wrong: what gave the name is known further up.
    """

    code = "model_refused"

    def named_by(self, variable: str, what: str = "") -> ModelRefused:
        """Returns the error with the variable that gave the name, where it is the name that is wrong."""
        return self if self.param else ModelRefused(f"{variable}: {what}{self.message}", param=variable)


class InvalidInput(WorkerError):
    """The job's input is wrong; `param` names the field."""

    status = 400
    code = "invalid_input"


class EngineError(WorkerError):
    """vLLM refused or failed the request, or redirected it; `status` and `body` are what it answered."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body.get("message", "the engine gave no message")))
        self.status = status
        self.retryable = status in (408, 429) or status >= 500
        self.body = body

    @classmethod
    def from_response(cls, status: int, body: bytes) -> EngineError:
        """Reads vLLM's `{"error": {...}}`, FastAPI's `{"detail": ...}`, or any text."""
        text = body.decode("utf-8", errors="replace")
        try:
            document = json.loads(text)
        except json.JSONDecodeError:
            document = {"detail": text or phrase(status)}
        error = document.get("error") if isinstance(document, dict) else None
        if not isinstance(error, dict):
            detail = document.get("detail", text) if isinstance(document, dict) else text
            error = {"message": detail if isinstance(detail, str) else json.dumps(detail)}
            if status < 400:  # the body of a redirect explains nothing
                error = {"message": f"the engine answered with HTTP {status} ({phrase(status)}), which is no answer"}
        return cls(status, error)

    def to_json(self) -> dict[str, Any]:
        """Returns vLLM's own error object, completed to the four fields that every caller may count on."""
        kind = _error_type(self.status)
        error = {"message": self.message, "type": kind, "code": self.status, "param": None} | self.body
        return {"error": error, "status": self.status, "retryable": self.retryable}


class StreamBroken(WorkerError):
    """The engine stopped in the middle of an event: what was sent so far is not the whole answer."""

    status = 502
    code = "stream_broken"
    retryable = True


class EngineUnavailable(WorkerError):
    """The engine is not running; another worker may well be."""

    status = 503
    code = "engine_unavailable"
    retryable = True


class NotBegun(EngineUnavailable):
    """The engine was not there for the request, of which nothing has begun: it may be sent anywhere once more."""


class ModelUnavailable(WorkerError):
    """The model is on no disk, and the hub does not answer or sends broken files. A later try may succeed."""

    status = 503
    code = "model_unavailable"
    retryable = True
