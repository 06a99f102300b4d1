"""Each test of quotas runs twice: in memory, and in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.vllm_service.storage.conftest import Backend
from vllm_service.storage.protocol import Quotas
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink


@pytest.fixture
async def quotas(backend: Backend) -> AsyncIterator[Quotas]:
    """Both kinds, by the caller's clock."""
    if backend.redis_url is None:
        yield MemoryQuotas()
        return
    link = RedisLink(backend.redis_url)
    yield RedisQuotas(link, uses_server_clock=False, end_seconds=60)
    await link.close()
