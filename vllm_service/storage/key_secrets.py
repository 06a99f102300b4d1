"""A key's secret: `vs_<id>_<token>`. The id is public and finds the row; the token has 256 random bits.

With that much entropy a fast hash is as good as a slow one: there is nothing to guess. The pepper, if set, makes
digests from a stolen database useless for telling whether a found secret is valid.
"""

from __future__ import annotations

import hmac
import secrets

PREFIX = "vs"
_ID_BYTES, _TOKEN_BYTES = 8, 32
_LONGEST_SECRET = 128


def new_secret() -> tuple[str, str]:
    """(id, secret)."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"{PREFIX}_{key_id}_{secrets.token_urlsafe(_TOKEN_BYTES)}"


def id_in(secret: str) -> str | None:
    """The id within a secret; None for what cannot be one of ours."""
    parts = secret.split("_", 2)
    if len(parts) != 3 or parts[0] != PREFIX or len(parts[1]) != 2 * _ID_BYTES or len(secret) > _LONGEST_SECRET:
        return None
    return parts[1] if secret.isascii() and secret.isprintable() else None


def digest_of(secret: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 with the pepper, which may be empty; 32 bytes."""
    return hmac.digest(pepper, secret.encode(), "sha256")
