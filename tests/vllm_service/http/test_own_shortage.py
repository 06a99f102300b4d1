"""A machine that can open no more connections is no failure of the providers that it would have called."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.gateway.provider_errors import not_reached
from vllm_service.http.pool import ConnectionPool
from vllm_service.http.upstream import NoFreeConnection
from vllm_service.resilience.failures import LEFT_BY_CALLER
from vllm_service.testing import ScriptedProvider, chat


@contextmanager
def no_files_left() -> Iterator[None]:
    """For as long as it is entered, this process can open no file and no socket."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_a_free_file_no_provider_is_blamed_and_the_next_request_is_answered() -> None:
    connections = ConnectionPool()
    async with ScriptedProvider(chat("sound")) as upstream:
        provider = Provider("p", ProviderKind.HOSTED, upstream.url)
        with no_files_left(), pytest.raises(NoFreeConnection) as raised:
            await connections.send(provider, "/x", b"", b"{}")
        assert not_reached(raised.value, "m").failure.breaker_status == LEFT_BY_CALLER
        assert (await connections.send(provider, "/x", b"", b"{}")).status == 200
        await connections.close()
