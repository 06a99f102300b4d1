"""The providers' HTTP seam over a real client; counts what was sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx

from vllm_service.runpod.endpoint import Reply


class HttpSeam:
    """A SendHttp. To be closed with aclose."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self._client = httpx.AsyncClient(trust_env=False)

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        self.sent[f"{method} {urlsplit(url).path}"] += 1
        try:
            reply = await self._client.request(method, url, headers=headers, content=body, timeout=timeout_seconds)
        except httpx.TransportError as error:
            raise OSError(str(error)) from error
        return Reply(reply.status_code, reply.content, dict(reply.headers))

    async def aclose(self) -> None:
        await self._client.aclose()
