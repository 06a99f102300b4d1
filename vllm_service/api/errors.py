"""Gives each request its id, and every error of the FastAPI side the gateway's one format."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_service.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError
from vllm_service.http.messages import RequestIds
from vllm_service.logs import source_location

_log = logging.getLogger(__name__)
_HEADER = b"x-request-id"


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Returns the id that OutermostMiddleware gave the request."""
    return str(scope["request_id"])


class OutermostMiddleware:
    """Gives each request its id and turns unexpected exceptions into 500.

    An exception's text is neither answered nor logged: it may hold a secret or a prompt.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Implements an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = request_id = self._ids.of(dict(scope["headers"]).get(_HEADER))
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message.get("headers", ()), (_HEADER, request_id.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            _log.error("request %s ended in %s", request_id, source_location(error))
            if not has_started:  # after its head an answer cannot become another one; the server cuts it
                answer = ServiceError("The gateway failed on this request; its log has more under the request's id.")
                await JSONResponse(answer.to_json(request_id), answer.status)(scope, receive, send_with_id)


def error_response(error: ServiceError, request_id: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns the error's status, JSON body and headers as a response."""
    response = JSONResponse(error.to_json(request_id), error.status, headers=dict(headers or {}))
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def add_error_handlers(app: FastAPI) -> None:
    """Handles what routes raise, and what FastAPI raises before a route. OutermostMiddleware handles the rest."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_exception_handler(404, _unknown_path)
    app.add_exception_handler(405, _wrong_method)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return error_response(error, request_id_of(request.scope))


async def _invalid_parameters(request: Request, error: Exception) -> JSONResponse:
    """Names the first wrong field and what it should be, never its value: it may be a prompt or a secret."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    wrong = InvalidRequest(f"{param or 'The request'}: {first['type'].replace('_', ' ')}", param=param)
    return error_response(wrong, request_id_of(request.scope))


async def _unknown_path(request: Request, error: Exception) -> JSONResponse:
    lists_paths = request.app.openapi_url is not None
    unknown = NotFound("There is nothing at this path" + ("; /openapi.json lists all paths." if lists_paths else "."))
    return error_response(unknown, request_id_of(request.scope))


async def _wrong_method(request: Request, error: Exception) -> JSONResponse:
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    allowed = headers.get("Allow", "another method")
    wrong = MethodNotAllowed(f"This path does not take {request.method}; it takes {allowed}.")
    return error_response(wrong, request_id_of(request.scope), headers)
