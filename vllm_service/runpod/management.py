"""Sets one number of one endpoint: workersMin, how many workers run with or without jobs.

`PATCH /v2/serverless/ID` with `{"workers": {"min": n}}` changes nothing else, and RunPod hands it to its scaler at once
(RunPod's published schema of 2026-08). Its answer is no proof that it has been done, so the number is read before, and
again after. Bodies are never shown nor logged: an endpoint's document holds its environment. This has never been tried
on RunPod itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vllm_service.catalog.model import Management, ManagementApi, Provider
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.one_attempt_api import one_attempt_api
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_api import Json
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.worker_bounds import parse_bounds

#: Of each request; a change takes up to three, which autoscaling's lease has to outlast. So none waits for RunPod's
#: rate limit: the next try does.
TIMEOUT_SECONDS = 5.0


class RunPodManagement:
    """Reads and sets one endpoint's workersMin. clock: monotonic seconds."""

    def __init__(
        self,
        provider: Provider,
        management: Management,
        send: SendHttp,
        timeout_seconds: float = TIMEOUT_SECONDS,
        *,
        limits: RateLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = provider.name
        self.url = management.url
        self._path = management.path
        self._is_v1 = management.api is ManagementApi.V1
        self._api = one_attempt_api(
            provider, management, send, timeout_seconds=timeout_seconds, limits=limits, clock=clock
        )

    async def ensure(self, workers: int) -> bool:
        """Sets workersMin unless it is so already; returns whether it had to be changed. Raises UpstreamFailed.

        What is so already is not ordered again: a change may make the platform replace the workers. A JSON object that
        does not hold the number, in answer to the change, counts as success.
        """
        if await self._found() == workers:
            return False
        body: Json = {"workersMin": workers} if self._is_v1 else {"workers": {"min": workers}}
        unclear: RestError | None = None
        answered = None
        try:
            answered = parse_bounds(await self._api.patch(self._path, body)).least
        except RestError as error:
            if error.status is None or not 200 <= error.status < 300:
                raise self._failed(workers, error) from None
            unclear = error  # it may have been done all the same
        found = await self._found()
        now = answered if found is None else found
        if now is None and unclear is not None:
            raise self._failed(workers, unclear)
        if now not in (workers, None):
            raise UpstreamFailed(f"{self.name}: workersMin is {now} after it was set to {workers}")
        return True

    async def _found(self) -> int | None:
        """Returns workersMin; None if it cannot be read now, or is not in what was read."""
        try:
            return parse_bounds(await self._api.get(self._path)).least
        except RestError:
            return None

    def _failed(self, workers: int, error: RestError) -> UpstreamFailed:
        return UpstreamFailed(f"{self.name}: workersMin {workers} was not set: {error.message.removesuffix('.')}")
