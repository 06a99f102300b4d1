"""Cached answers: whole, per organisation, bounded, and gone in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.vllm_service.storage.conftest import Backend
from vllm_service.domain.usage import Usage
from vllm_service.storage.protocol import CachedResponse, ResponseCache
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.responses.memory import ENTRY_BYTES, MemoryResponses, ResponseBounds
from vllm_service.storage.responses.redis import RedisResponses

Opener = Callable[[ResponseBounds], ResponseCache]
ANSWER = CachedResponse(b'data: {"a": "\xc3\xa9"}\n\ndata: [DONE]\n\n', is_stream=True, usage=Usage(3, 4))


@pytest.fixture
async def opened(backend: Backend) -> AsyncIterator[Opener]:
    if backend.redis_url is None:
        yield MemoryResponses
        return
    link = RedisLink(backend.redis_url)
    yield lambda bounds: RedisResponses(link, bounds, get_seconds=60)
    await link.close()


async def test_an_answer_comes_back_as_it_was_to_its_organisation_only(opened: Opener) -> None:
    cache = opened(ResponseBounds())
    await cache.put("acme", b"key", ANSWER)
    assert await cache.get("acme", b"key") == ANSWER
    assert await cache.get("acme", b"other") is None
    assert await cache.get("zeta", b"key") is None


async def test_a_newer_answer_takes_the_place_of_an_older(opened: Opener) -> None:
    cache = opened(ResponseBounds())
    await cache.put("acme", b"key", CachedResponse(b"{}", is_stream=False))
    await cache.put("acme", b"key", ANSWER)
    assert await cache.get("acme", b"key") == ANSWER


async def test_entries_are_bounded_and_the_oldest_go(opened: Opener) -> None:
    cache = opened(ResponseBounds(max_entries=3))
    for number in range(5):
        await cache.put("acme", bytes([number]), CachedResponse(b"%d" % number, is_stream=False))
    kept = [number for number in range(5) if await cache.get("acme", bytes([number])) is not None]
    assert len(kept) == 3
    assert 4 in kept


async def test_bytes_are_bounded(opened: Opener) -> None:
    size = 1000 + ENTRY_BYTES
    cache = opened(ResponseBounds(max_bytes=10 * size))
    for number in range(25):
        await cache.put("acme", bytes([number]), CachedResponse(bytes(1000), is_stream=False))
    kept = [number for number in range(25) if await cache.get("acme", bytes([number])) is not None]
    assert len(kept) == 10


async def test_an_answer_too_large_to_keep_is_not_kept(opened: Opener) -> None:
    cache = opened(ResponseBounds(max_bytes=80_000))
    await cache.put("acme", b"key", CachedResponse(bytes(10_001), is_stream=False))
    assert await cache.get("acme", b"key") is None


async def test_an_answer_lives_for_its_time() -> None:
    now = 0.0
    cache = MemoryResponses(ResponseBounds(ttl_seconds=60), clock=lambda: now)
    await cache.put("acme", b"key", ANSWER)
    now = 59.9
    assert await cache.get("acme", b"key") == ANSWER
    now = 60.0
    assert await cache.get("acme", b"key") is None
    assert cache.held_bytes == 0


async def test_without_redis_nothing_is_cached_and_nothing_fails() -> None:
    link = RedisLink("redis://127.0.0.1:1/0")
    cache = RedisResponses(link, ResponseBounds())
    await cache.put("acme", b"key", ANSWER)
    assert await cache.get("acme", b"key") is None
    await link.close()
