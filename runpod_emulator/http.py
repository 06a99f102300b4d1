"""What both APIs share: bodies within their limits, and every error as clear JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from runpod_emulator.errors import ApiError, BadRequest, TooLarge

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def read_body(request: web.Request, max_bytes: int) -> bytes:
    """Raises TooLarge; before the body is read where its length is announced."""
    body = b"" if (request.content_length or 0) > max_bytes else await request.read()
    if max(request.content_length or 0, len(body)) > max_bytes:
        raise TooLarge(f"the body is larger than {max_bytes} bytes")
    return body


async def read_object(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """The body as a JSON object, whatever its content type says; raises TooLarge and BadRequest."""
    body = await read_body(request, max_bytes)
    try:
        document = json.loads(body or b"{}")
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body is not a JSON object")
    return document


def error_response(error: ApiError) -> web.Response:
    """An error as RunPod's clients and OpenAI's both can read it."""
    document = {"error": {"message": str(error), "type": type(error).__name__, "code": error.code, "param": None}}
    return web.json_response(document | {"status": error.status}, status=error.status, headers=error.headers)


def answering_errors(handler: Handler) -> Handler:
    """The handler, with ApiError answered instead of raised."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return error_response(error)

    return answer
