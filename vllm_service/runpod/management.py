"""RunPod's management API of one endpoint, for one number: workersMin, how many workers run with or without jobs.

`PATCH /v1/endpoints/ID` changes only the fields that are present, and its answer is no proof that it has been done
(docs.runpod.io and RunPod's own tools, 2026-11): so workersMin is read before, and again after. Bodies are never shown
nor logged: an endpoint's document holds its environment. This has never been tried on RunPod itself.
"""

from __future__ import annotations

import json

from vllm_service.catalog.model import Provider, WorkersMin
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.endpoint import FAULTS, Reply, SendHttp

#: Of each request; a change takes up to three, which autoscaling's lease has to outlast.
TIMEOUT_SECONDS = 5.0


class RunPodManagement:
    """Reads and sets one endpoint's workersMin."""

    def __init__(
        self, provider: Provider, managed: WorkersMin, send: SendHttp, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.name = provider.name
        self.url = managed.url
        self._headers = {"content-type": "application/json"}
        if provider.api_key is not None:
            self._headers["authorization"] = f"Bearer {provider.api_key}"
        self._send = send
        self._timeout_seconds = timeout_seconds

    async def ensure(self, workers: int) -> bool:
        """Sets workersMin unless it is so already; returns whether it had to be changed. Raises UpstreamFailed.

        An update may make RunPod replace the workers: what is so already is not ordered again. JSON that does
        not hold workersMin, in answer to the change, counts as success.
        """
        if await self._found() == workers:
            return False
        try:
            reply = await self._request("PATCH", json.dumps({"workersMin": workers}).encode())
        except FAULTS as error:
            raise UpstreamFailed(f"{self.name}: no answer to workersMin {workers} ({type(error).__name__})") from None
        if not 200 <= reply.status < 300:
            raise UpstreamFailed(f"{self.name}: did not take workersMin {workers}, status {reply.status}")
        document = _object(reply.body)
        answered = None if document is None else workers_min_of(document)
        found = await self._found()
        now = answered if found is None else found
        if now is None and document is None:
            raise UpstreamFailed(
                f"{self.name}: what answered workersMin {workers} is not RunPod: no JSON; check the URL"
            )
        if now not in (workers, None):
            raise UpstreamFailed(f"{self.name}: workersMin is {now} after it was set to {workers}")
        return True

    async def _found(self) -> int | None:
        """Returns workersMin; None if it cannot be read now, or is not in what was read."""
        try:
            reply = await self._request("GET", b"")
        except FAULTS:
            return None
        document = _object(reply.body) if reply.status == 200 else None
        return None if document is None else workers_min_of(document)

    async def _request(self, method: str, body: bytes) -> Reply:
        return await self._send(method, self.url, self._headers, body, self._timeout_seconds)


def workers_min_of(document: dict[str, object]) -> int | None:
    """Returns workersMin; None if it is missing, or no count."""
    value = document.get("workersMin")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**31:
        return None
    return int(value) if value == int(value) else None


def _object(body: bytes) -> dict[str, object] | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
