"""A key's secret: `vs_<id>_<token>`. The id is public and finds the row; the token has 256 random bits.

With that much entropy a fast hash is as good as a slow one: there is nothing to guess. The pepper, if set, makes
digests from a stolen database useless for telling whether a found secret is valid.
"""

from __future__ import annotations

import hmac
import re
import secrets

PREFIX = "vs"
_ID_BYTES, _TOKEN_BYTES = 8, 32
_LONGEST_SECRET = 128
_SECRET = re.compile(rf"{PREFIX}_([ -^`-~]{{{2 * _ID_BYTES}}})_[ -~]*")  # printable; no underscore in the id


def new_secret() -> tuple[str, str]:
    """(id, secret)."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def id_in(secret: str) -> str | None:
    """The id within a secret; None for what cannot be one of ours."""
    found = _SECRET.fullmatch(secret) if len(secret) <= _LONGEST_SECRET else None
    return None if found is None else found[1]


def digest_of(secret: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 with the pepper, which may be empty; 32 bytes."""
    return hmac.digest(pepper, secret.encode(), "sha256")
