"""The roles of keys, and the one table of what each may see and do. Whatever depends on a role reads this table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Role(StrEnum):
    """A key's role. Each one may do all that those before it may."""

    CALLER = "caller"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """A kind of thing that a key may see or do. What needs none is open to strangers."""

    #: Model requests, the names of models, and what comes of the key's own requests.
    CALL_MODELS = "call_models"
    #: Figures of all organisations together, prices, and the state of providers and of the gateway's parts.
    READ_FIGURES = "read_figures"
    #: The addresses of providers.
    READ_ADDRESSES = "read_addresses"
    #: Making, changing and revoking keys. The commands need the database instead of a key.
    MANAGE_KEYS = "manage_keys"


#: The least role for each permission.
LEAST_ROLE: Mapping[Permission, Role] = MappingProxyType(
    {
        Permission.CALL_MODELS: Role.CALLER,
        Permission.READ_FIGURES: Role.VIEWER,
        Permission.READ_ADDRESSES: Role.OPERATOR,
        Permission.MANAGE_KEYS: Role.ADMIN,
    }
)
_NAMES = frozenset(Role)
_RANK = {role: rank for rank, role in enumerate(Role)}


def known_role(text: str) -> Role:
    """Returns the role of this name. A name that this program does not know, of a newer one, is the least role."""
    return Role(text) if text in _NAMES else Role.CALLER


def may(role: Role | None, permission: Permission) -> bool:
    """Returns true if a key of this role has the permission. None is a stranger, without a key, and has none."""
    return role is not None and _RANK[role] >= _RANK[LEAST_ROLE[permission]]
