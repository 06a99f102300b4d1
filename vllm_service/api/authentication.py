"""Checks `Authorization: Bearer KEY` in the key store. Without a store (local development) every caller is let in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from vllm_service.domain.keys import ApiKey
from vllm_service.errors import Unauthorized
from vllm_service.storage.protocol import Keys

SCHEME_NAME = "Key"
bearer = HTTPBearer(
    scheme_name=SCHEME_NAME, description="A key made with `python -m vllm_service keys`", auto_error=False
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


def required_key(keys: Keys | None) -> Callable[..., Awaitable[ApiKey | None]]:
    """Returns a FastAPI dependency that gives the caller's key, or None without a key store.

    It raises Unauthorized with a message that repeats nothing of what was sent.
    """

    async def check(credentials: Credentials) -> ApiKey | None:
        if keys is None:
            return None
        if credentials is None:
            raise Unauthorized("This path needs a key: send the header Authorization: Bearer KEY.")
        key = await keys.find(credentials.credentials)
        if key is None:
            raise Unauthorized("This key is unknown, or it has been revoked: ask the gateway's operator for another.")
        return key

    return check


async def has_valid_key(keys: Keys | None, request: Request) -> bool:
    """Returns true if the caller may see details, where a key is optional: with a valid key, or without a key store."""
    if keys is None:
        return True
    credentials = await bearer(request)
    return credentials is not None and await keys.find(credentials.credentials) is not None
