"""A request's id, in and out, and the last catch: what nobody expected is answered with a 500 that says only the id."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_service.errors import ServiceError
from vllm_service.logs import place_of

_log = logging.getLogger(__name__)
_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_HEADER = b"x-request-id"


def new_request_id() -> str:
    """32 hexadecimal digits after `req_`."""
    return f"req_{uuid.uuid4().hex}"


def accepted_request_id(headers: list[tuple[bytes, bytes]]) -> str:
    """The caller's `x-request-id` if it is harmless in a log, a header and a database; else a new one."""
    for name, value in headers:
        if name == _HEADER and _ACCEPTABLE.fullmatch(value):
            return value.decode("ascii")
    return new_request_id()


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Of a request that came through Outermost; a new one for any other."""
    return str(scope.get("request_id") or new_request_id())


class Outermost:
    """Around the whole app. No exception's own text is answered or logged: it may hold a secret or a prompt."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = scope.get("request_id") or accepted_request_id(scope["headers"])
        scope["request_id"] = request_id
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
            _log.error("request %s ended in %s", request_id, place_of(error))
            if not has_started:
                answer = ServiceError("Something went wrong here. The gateway's log has more under this request's id.")
                await JSONResponse(answer.to_json(request_id), answer.status)(scope, receive, send_with_id)
