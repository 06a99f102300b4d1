"""Checks `Authorization: Bearer KEY` in the key store, and what the key's role may see.

Without a store (local development, on loopback) everything is shown to everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from vllm_service.domain.roles import LEAST_ROLE, Permission, Role, may
from vllm_service.errors import Forbidden, StorageUnavailable, key_needed, key_unknown
from vllm_service.storage.protocol import Keys

SCHEME_NAME = "Key"
bearer = HTTPBearer(
    scheme_name=SCHEME_NAME, description="A key made with `python -m vllm_service keys`", auto_error=False
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]


#: The role where no key is needed.
LOCAL_ROLE = Role.ADMIN


def required_role(keys: Keys | None, permission: Permission) -> Callable[..., Awaitable[Role]]:
    """Returns a FastAPI dependency that gives the role of the caller's key, which has the permission.

    It raises Unauthorized with a message that repeats nothing of what was sent, and Forbidden.
    """

    async def check(credentials: Credentials) -> Role:
        if keys is None:
            return LOCAL_ROLE
        if credentials is None:
            raise key_needed()
        key = await keys.find(credentials.credentials)
        if key is None:
            raise key_unknown()
        if not may(key.role, permission):
            raise _forbidden(key.role, permission)
        return key.role

    return check


async def role_of(keys: Keys | None, request: Request) -> Role | None:
    """Returns the role of the caller's key, where a key is optional; None for a stranger, without a valid key.

    A key that cannot be looked up now is a stranger's: health answers all the same.
    """
    if keys is None:
        return LOCAL_ROLE
    credentials = await bearer(request)
    try:
        key = None if credentials is None else await keys.find(credentials.credentials)
    except StorageUnavailable:
        return None
    return None if key is None else key.role


def _forbidden(role: Role, permission: Permission) -> Forbidden:
    least = LEAST_ROLE[permission]
    return Forbidden(
        f"This key's role is {role}; this path needs {least}. The gateway's operator makes such a key with "
        f"`python -m vllm_service keys create ORGANISATION --role {least}`, or changes this one with `keys role`.",
        details={"role": role.value, "needs": least.value},
    )
