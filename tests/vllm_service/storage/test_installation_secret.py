"""The secret of an installation is random, made once, and the same for all that open its database."""

from __future__ import annotations

import asyncio

from tests.vllm_service.storage.conftest import Backend
from vllm_service.storage.installation_secret import installation_secret
from vllm_service.storage.open import open_database


async def secret(backend: Backend, name: str = "caches", pepper: bytes = b"") -> bytes:
    database = await open_database(backend.database_url, backend.data_dir)
    try:
        return await installation_secret(database, name, pepper)
    finally:
        await database.close()


async def test_replicas_that_start_at_once_and_later_ones_have_the_same_secret(backend: Backend) -> None:
    at_once = await asyncio.gather(*(secret(backend) for _ in range(5)))
    assert {*at_once, await secret(backend)} == {at_once[0]}
    assert len(at_once[0]) == 32


async def test_each_purpose_and_each_pepper_has_another_one(backend: Backend) -> None:
    assert len({await secret(backend), await secret(backend, "other"), await secret(backend, pepper=b"pepper")}) == 3
