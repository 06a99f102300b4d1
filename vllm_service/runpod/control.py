"""Small requests to a platform's control API over the gateway's kept connections (a runpod.SendHttp)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from vllm_service.catalog.model import Provider, ProviderKind
from vllm_service.http.upstream import Answer, Patience, ProviderFault
from vllm_service.runpod.endpoint import Reply


class Asks(Protocol):
    """Of Connections what is needed here."""

    def send(
        self, provider: Provider, path: str, headers: bytes, body: bytes, patience: Patience = ...
    ) -> Awaitable[Answer]:
        """POSTs."""
        ...

    def get(self, provider: Provider, path: str, patience: Patience = ...) -> Awaitable[Answer]:
        """GETs."""
        ...

    def patch(self, provider: Provider, path: str, body: bytes, patience: Patience = ...) -> Awaitable[Answer]:
        """PATCHes."""
        ...


class ControlHttp:
    """Implements runpod.SendHttp. Each address and key gets a pool of its own, a few connections at most."""

    def __init__(self, connections: Asks) -> None:
        self._connections = connections
        self._places: dict[tuple[str, str | None], Provider] = {}

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """See runpod.SendHttp. GET, PATCH or POST; of the headers only the key is sent on."""
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        place = self._place(f"{parts.scheme}://{parts.netloc}", headers.get("authorization"))
        patience = Patience(total_seconds=timeout_seconds)
        try:
            async with asyncio.timeout(timeout_seconds):
                if method == "GET":
                    answer = await self._connections.get(place, path, patience)
                elif method == "PATCH":
                    answer = await self._connections.patch(place, path, body, patience)
                else:
                    answer = await self._connections.send(place, path, b"", body, patience)
        except ProviderFault as fault:
            raise OSError(str(fault)) from fault
        reply = Reply(answer.status, answer.body, {n.decode(): v.decode("latin-1") for n, v in answer.headers.items()})
        answer.close()
        return reply

    def _place(self, origin: str, authorization: str | None) -> Provider:
        key = None if authorization is None else authorization.removeprefix("Bearer ")
        place = self._places.get((origin, key))
        if place is None:
            place = Provider(origin, ProviderKind.HOSTED, origin, key, max_connections=4)
            self._places[origin, key] = place
        return place
