"""Who may ask: `Authorization: Bearer KEY`, checked by the key store; without one (local development), everybody."""

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
    """A dependency: the caller's key. Raises Unauthorized; the message repeats nothing of what was sent."""

    async def check(credentials: Credentials) -> ApiKey | None:
        if keys is None:
            return None
        if credentials is None:
            raise Unauthorized("This needs a key: send the header Authorization: Bearer KEY.")
        key = await keys.find(credentials.credentials)
        if key is None:
            raise Unauthorized("This key is not known here, or it has been revoked.")
        return key

    return check


async def is_known(keys: Keys | None, request: Request) -> bool:
    """Whether the caller may see what is not for everybody, where a key is welcome but not needed."""
    if keys is None:
        return True
    credentials = await bearer(request)
    return credentials is not None and await keys.find(credentials.credentials) is not None
