"""Request ids in and out, and every error of the FastAPI side in the one format."""

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
from vllm_service.gateway.context import RequestIds
from vllm_service.logs import source_location

_log = logging.getLogger(__name__)
_HEADER = b"x-request-id"


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Of a request that came through Outermost."""
    return str(scope["request_id"])


class Outermost:
    """Around the whole app. No exception's own text is answered or logged: it may hold a secret or a prompt."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = RequestIds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
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
            if not has_started:
                answer = ServiceError("Something went wrong here. The gateway's log has more under this request's id.")
                await JSONResponse(answer.to_json(request_id), answer.status)(scope, receive, send_with_id)


def error_response(error: ServiceError, request_id: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Status, JSON body, and the headers that belong to the error."""
    response = JSONResponse(error.to_json(request_id), error.status, headers=dict(headers or {}))
    if error.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def add_error_handlers(app: FastAPI) -> None:
    """What is raised in a route, or by the framework before one is reached. The rest: request_ids.Outermost."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_exception_handler(404, _unknown_path)
    app.add_exception_handler(405, _wrong_method)


async def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return error_response(error, request_id_of(request.scope))


async def _invalid_parameters(request: Request, error: Exception) -> JSONResponse:
    """Names the first field that is wrong and what it should be, never its value: it may be a prompt or a secret."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    wrong = InvalidRequest(f"{param or 'The request'}: {first['type'].replace('_', ' ')}", param=param)
    return error_response(wrong, request_id_of(request.scope))


async def _unknown_path(request: Request, error: Exception) -> JSONResponse:
    return error_response(NotFound("There is nothing at this path; see /openapi.json."), request_id_of(request.scope))


async def _wrong_method(request: Request, error: Exception) -> JSONResponse:
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    allowed = headers.get("Allow", "another method")
    wrong = MethodNotAllowed(f"This path does not take {request.method}; it takes {allowed}.")
    return error_response(wrong, request_id_of(request.scope), headers)
