"""Faults of the REST API: refusals that carry nothing out, and answers that arrive broken or changed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from decimal import Decimal
from typing import Any

from aiohttp import web

from runpod_emulator.api.rest.exact_json import exact_text
from runpod_emulator.endpoint.faults import REST_STATUSES, Faults
from runpod_emulator.errors import ApiError
from runpod_emulator.http import Handler

#: The pause between two bytes of a slow answer.
SLOW_BYTE_SECONDS = 1.0
#: A field that no schema has, and its value.
EXTRA = {"fieldOfNextYear": {"list": [1, 2.5, None]}}
#: What RunPod says with each status.
REFUSALS = {
    401: "the bearer token is not valid",
    403: "access denied",
    404: "resource not found",
    409: "the resource is in another state",
    410: "this version of the API has been retired",
    422: "Request validation failed.",
    429: "rate limit exceeded for the minute window",
    500: "internal error",
    501: "not implemented",
}
#: Of the injected 429.
RETRY_AFTER_SECONDS = 7


def applies(faults: Faults, request: web.Request) -> bool:
    """Returns whether the REST fault is set for this request."""
    if faults.rest is None:
        return False
    method, _, path = (faults.rest_on or "").rpartition(" ")
    return request.path.startswith(path) and method in ("", request.method)


class InjectedRefusal(ApiError):
    """A refusal that is set as a fault."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{REFUSALS[status]} (injected fault: rest)")
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Returns what a 429 has: when to come again, and the used-up quota."""
        if self.status != 429:
            return {}
        return {
            "Retry-After": str(RETRY_AFTER_SECONDS),
            "RateLimit": f'"minute";r=0;t={RETRY_AFTER_SECONDS}',
            "RateLimit-Policy": '"minute";q=60;w=60',
        }


async def spoiled(fault: str, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers with the fault. The request is carried out before, but for `html` and refusals.

    Raises ApiError.
    """
    if fault in REST_STATUSES:
        raise InjectedRefusal(int(fault))
    if fault == "html":
        return web.Response(text="<html><body>200, and no API</body></html>", content_type="text/html")
    if fault == "endless_pages":
        # The cursor of the page before is none of the list's own.
        request = request.clone(rel_url=request.rel_url.without_query_params("cursor"))
    response = await handler(request)
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or not body:
        return response
    if fault in ("cut", "slow"):
        return await _broken_off(request, response, body, slowly=fault == "slow")
    return _changed(response, json.loads(body, parse_float=Decimal), fault)


async def _broken_off(
    request: web.Request, response: web.StreamResponse, body: bytes, *, slowly: bool
) -> web.StreamResponse:
    """Sends half of the body and closes the connection, or sends it byte by byte."""
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    sent.content_length = len(body)
    await sent.prepare(request)
    with contextlib.suppress(ConnectionResetError):
        for piece in (body[at : at + 1] for at in range(len(body))) if slowly else (body[: len(body) // 2],):
            await sent.write(piece)
            await asyncio.sleep(SLOW_BYTE_SECONDS if slowly else 0)
    if not slowly and request.transport is not None:
        request.transport.close()
    return sent


def _changed(response: web.StreamResponse, document: dict[str, Any], fault: str) -> web.StreamResponse:
    """Returns the answer with fields that no schema has, or with a cursor to one more page."""
    if fault == "extra_field":
        document = {name: _with_extra(member) for name, member in document.items()} | EXTRA
    elif all(isinstance(member, list) for member in document.values()):
        document["nextCursor"] = secrets.token_urlsafe(12)
    return web.Response(text=exact_text(document), status=response.status, content_type=response.content_type)


def _with_extra(member: Any) -> Any:
    """Returns a list's objects, each with the extra field; everything else as it is."""
    if not isinstance(member, list):
        return member
    return [item | EXTRA if isinstance(item, dict) else item for item in member]
