"""Small requests to a platform's control API over the gateway's kept connections (a runpod.SendHttp)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.http.upstream import Answer, Patience, ProviderFault
from vllm_service.runpod.endpoint import Reply


class ProviderRequests(Protocol):
    """The part of http.upstream.Connections that control requests need."""

    def ask(
        self, method: str, provider: Provider, path: str, body: bytes = ..., patience: Patience = ...
    ) -> Awaitable[Answer]:
        """Sends a request of any method."""
        ...


class ControlHttp:
    """Implements runpod.SendHttp. Each origin and key gets a pool of its own, a few connections at most."""

    def __init__(self, connections: ProviderRequests) -> None:
        self._connections = connections
        #: By origin and key: Connections keeps one pool per provider, so these are kept too.
        self._providers: dict[tuple[str, str | None], Provider] = {}

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """Sends a request as runpod.SendHttp says; of the headers only the key is sent on."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        provider = self._provider(f"{parts.scheme}://{parts.netloc}", headers.get("authorization"))
        patience = Patience(total_seconds=timeout_seconds)
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._connections.ask(method, provider, path, body, patience)
        except ProviderFault as fault:
            raise OSError(str(fault)) from fault
        reply = Reply(answer.status, answer.body, {n.decode(): v.decode("latin-1") for n, v in answer.headers.items()})
        answer.close()
        return reply

    def _provider(self, origin: str, authorization: str | None) -> Provider:
        key = None if authorization is None else authorization.removeprefix("Bearer ")
        provider = self._providers.get((origin, key))
        if provider is None:
            provider = Provider(origin, ProviderKind.HOSTED, origin, key, max_connections=4)
            self._providers[origin, key] = provider
        return provider
