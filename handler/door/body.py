"""Reads the body of an HTTP request, up to a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from handler.errors import InvalidInput

Message = MutableMapping[str, Any]


class ClientGone(Exception):
    """The client has left, so there is nothing to answer."""


class BodyTooLarge(InvalidInput):
    """The body is larger than RunPod itself lets through."""

    status = 413
    code = "body_too_large"


async def read_body(scope: Mapping[str, Any], receive: Callable[[], Awaitable[Message]], max_bytes: int) -> bytes:
    """Returns the whole body; raises BodyTooLarge as soon as it is too long, or ClientGone."""
    headers = dict(scope["headers"])
    too_large = BodyTooLarge(f"body: at most {max_bytes} bytes are taken", param="body")
    if int(headers.get(b"content-length", b"0")) > max_bytes:
        raise too_large
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
