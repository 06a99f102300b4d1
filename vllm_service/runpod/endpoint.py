"""A RunPod endpoint's own API, beside the OpenAI route: waking it with a cheap job, and looking at its health.

Looking never wakes a worker: `/health` only counts. A job in the queue does: it makes RunPod start one. The job
generates one token, may run briefly and is dropped if no worker takes it in time. It is not sent with lowPriority,
which on RunPod keeps a job from starting workers (docs.runpod.io, execution policies, 2026-11).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from vllm_service.catalog.model import Provider
from vllm_service.errors import ConfigurationError, UpstreamFailed
from vllm_service.runpod.health import EndpointHealth, parse_health

#: What SendHttp raises when there is no answer.
FAULTS = (OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer. Header names are lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class SendHttp(Protocol):
    """One HTTP request with a small answer. Raises OSError or TimeoutError when there is none."""

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        """Sends one request and returns the whole answer. body: JSON, or empty."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunPodSettings:
    """The times of requests to RunPod's own API."""

    #: Of each request.
    timeout_seconds: float = 10.0
    #: The least time between two looks at an endpoint; doubled with each look in a row that failed.
    health_interval_seconds: float = 2.0
    longest_health_interval_seconds: float = 60.0
    #: How long the warm-up job waits for a worker: the longest cold start.
    wake_ttl_seconds: float = 600.0
    #: How long the warm-up job may run.
    wake_execution_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Raises ValueError for what RunPod would refuse: an executionTimeout below 5 s."""
        if self.wake_execution_seconds < 5:
            raise ValueError(f"wake_execution_seconds: must be at least 5, got {self.wake_execution_seconds:g}")


class RunPodEndpoint:
    """One endpoint's API. clock: monotonic seconds. Raises ConfigurationError if the provider has no control_url."""

    def __init__(
        self,
        provider: Provider,
        send: SendHttp,
        clock: Callable[[], float],
        settings: RunPodSettings | None = None,
    ) -> None:
        if provider.control_url is None:
            raise ConfigurationError(
                f"provider {provider.name}: control_url is missing; set it in providers.yaml, for RunPod to "
                "https://api.runpod.ai/v2/ENDPOINT_ID"
            )
        self._url = provider.control_url.rstrip("/")
        self._name = provider.name
        self._headers = {"content-type": "application/json"}
        if provider.api_key is not None:
            self._headers["authorization"] = f"Bearer {provider.api_key}"
        self._send = send
        self._clock = clock
        self._settings = settings or RunPodSettings()
        self._health: EndpointHealth | None = None
        self._looked_at: float | None = None
        self._failures = 0
        #: Makes callers that come during a look wait for it instead of looking themselves.
        self._looking = asyncio.Lock()

    @property
    def looked_at(self) -> float | None:
        """When health was last asked for, by the clock; None before the first time."""
        return self._looked_at

    async def wake(self, model: str) -> str:
        """Queues the warm-up job and returns its id. Raises UpstreamFailed. model: its name at this endpoint."""
        try:
            reply = await self._request("POST", "/run", warm_up_job(model, self._settings))
        except FAULTS as error:
            raise UpstreamFailed(f"{self._name}: cannot be reached to wake it ({type(error).__name__})") from None
        job_id = _job_id(reply.body)
        if reply.status != 200 or job_id is None:
            raise UpstreamFailed(f"{self._name}: did not take the warm-up job, status {reply.status}")
        return job_id

    async def cancel(self, job_id: str) -> None:
        """Cancels a warm-up job. One that has ended stays as it is; one that cannot be reached ends by its ttl."""
        with contextlib.suppress(*FAULTS):
            await self._request("POST", f"/cancel/{job_id}", b"")

    async def health(self) -> EndpointHealth | None:
        """Returns the last health, read again when the interval has passed; None if the last look failed."""
        async with self._looking:
            now = self._clock()
            if self._looked_at is None or not 0 <= now - self._looked_at < self._interval():
                self._looked_at = now
                self._health = await self._look()
                self._failures = 0 if self._health else self._failures + 1
        return self._health

    async def _look(self) -> EndpointHealth | None:
        try:
            reply = await self._request("GET", "/health", b"")
        except FAULTS:
            return None
        return parse_health(reply.body) if reply.status == 200 else None

    async def _request(self, method: str, path: str, body: bytes) -> Reply:
        return await self._send(method, self._url + path, self._headers, body, self._settings.timeout_seconds)

    def _interval(self) -> float:
        settings = self._settings
        grown = settings.health_interval_seconds * 2.0 ** min(self._failures, 20)
        return min(grown, max(settings.longest_health_interval_seconds, settings.health_interval_seconds))


def warm_up_job(model: str, settings: RunPodSettings) -> bytes:
    """Returns the body of `POST /run`: one token to generate, on the route that the worker serves anyway."""
    chat = {"model": model, "messages": [{"role": "user", "content": "."}], "max_tokens": 1, "temperature": 0}
    policy = {  # milliseconds, by RunPod's names
        "executionTimeout": round(settings.wake_execution_seconds * 1000),
        "ttl": round(settings.wake_ttl_seconds * 1000),
    }
    job = {"input": {"openai_route": "/v1/chat/completions", "openai_input": chat}, "policy": policy}
    return json.dumps(job).encode()


def _job_id(body: bytes) -> str | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    job_id = document.get("id") if isinstance(document, dict) else None
    return job_id if isinstance(job_id, str) else None
