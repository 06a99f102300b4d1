"""The secret of an installation: random, made by its first start, the same for all replicas and later starts."""

from __future__ import annotations

import hmac
import secrets

from vllm_service.storage.sql.database import Database, Statement

_INSERT = "INSERT INTO installation_secrets (name, secret) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
_SELECT = "SELECT secret FROM installation_secrets WHERE name = $1"


async def installation_secret(database: Database, name: str, pepper: bytes) -> bytes:
    """Returns the secret for one purpose: 32 bytes. pepper: without it the database alone does not give the secret."""
    await database.write(Statement(_INSERT, (name, secrets.token_hex(32))))
    ((stored,),) = await database.fetch(_SELECT, name)
    return hmac.digest(pepper, bytes.fromhex(stored), "sha256")
