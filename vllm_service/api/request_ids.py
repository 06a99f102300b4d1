"""A request's id, in and out, and the last catch: what nobody expected is answered with a 500 that says only the id."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllm_service.domain.request_ids import RequestIds
from vllm_service.errors import ServiceError
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
