"""Every error of the FastAPI side in the one format: our own, unknown paths and methods, invalid parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from vllm_service.api.request_ids import request_id_of
from vllm_service.errors import InvalidRequest, MethodNotAllowed, NotFound, ServiceError


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
