"""Request bodies within their limits, and errors as JSON responses. Shared by all APIs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from runpod_emulator.errors import ApiError, BadRequest, TooLarge

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """Returns the request's body. Raises TooLarge, without reading it if its Content-Length is too large."""
    body = b"" if (request.content_length or 0) > max_bytes else await request.read()
    if max(request.content_length or 0, len(body)) > max_bytes:
        raise TooLarge(f"the body is larger than {max_bytes} bytes")
    return body


async def read_json(request: web.Request, max_bytes: int) -> Any:
    """Returns the body as JSON; the content type does not matter. Raises TooLarge and BadRequest."""
    body = await read_body(request, max_bytes)
    try:
        return json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


async def read_object(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """Returns the body as a JSON object, as read_json does. Raises TooLarge and BadRequest."""
    document = await read_json(request, max_bytes)
    if not isinstance(document, dict):
        raise BadRequest("the body is not a JSON object")
    return document


def error_response(error: ApiError) -> web.Response:
    """Returns the response for an error, in a form that both RunPod's and OpenAI's clients can read."""
    document = {"error": {"message": str(error), "type": type(error).__name__, "code": error.code, "param": None}}
    return web.json_response(document | {"status": error.status}, status=error.status, headers=error.headers)


def answering_errors(handler: Handler) -> Handler:
    """Returns the handler wrapped so that an ApiError becomes a response."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return error_response(error)

    return answer
