"""The client's settings: its endpoint, retries and rate limits. No other module of the client reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vllm_service.errors import ConfigurationError

DEFAULT_MODEL = "meta-llama/Llama-3.1-8B"
API_URL = "https://api.runpod.ai"
OPENAI_PATH = "/v2/{endpoint_id}/openai/v1"
OPENAI_SUFFIX = "/openai/v1"
#: The key that is sent to servers without keys, as in vLLM's documentation.
NO_KEY = "EMPTY"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The retries of transient errors. Raises ConfigurationError."""

    #: All attempts together, the first included.
    attempts: int = 3
    #: The wait before the second attempt; each further one is twice as long, up to `wait_max_seconds`.
    wait_min_seconds: float = 2.0
    wait_max_seconds: float = 10.0
    #: At most so much is added to each wait at random, so that clients do not retry in step.
    jitter_seconds: float = 1.0
    #: From the first attempt to the end of the last.
    total_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"attempts: expected at least 1, got {self.attempts}")
        if not 0 <= self.wait_min_seconds <= self.wait_max_seconds:
            raise ConfigurationError(
                "wait_min_seconds, wait_max_seconds: expected 0 <= min <= max, "
                f"got {self.wait_min_seconds} and {self.wait_max_seconds}"
            )
        if self.jitter_seconds < 0 or self.total_seconds <= 0:
            raise ConfigurationError("jitter_seconds: expected 0 or more; total_seconds: expected more than 0")


ONE_ATTEMPT = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The rate limit of one operation."""

    #: The most requests in a window, `RATE_WINDOW_SECONDS` unless another length is given.
    per_window: int
    #: The most requests at once.
    concurrent: int


RATE_WINDOW_SECONDS = 10.0
#: RunPod's limits of one endpoint as of 2026-11 (its documentation). They change: pass others to RunPodVLLMService.
QUEUE_LIMITS: Mapping[str, RateLimit] = MappingProxyType(
    {
        "run": RateLimit(1000, 200),
        "status": RateLimit(2000, 400),
        "stream": RateLimit(2000, 400),
        "cancel": RateLimit(100, 20),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """The address of one endpoint."""

    #: Its name in errors.
    endpoint: str
    #: The OpenAI route.
    base_url: str
    #: The native queue; None for servers without one.
    control_url: str | None
    api_key: str = field(repr=False)
    default_model: str = DEFAULT_MODEL

    @classmethod
    def resolve(
        cls,
        endpoint_id: str | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
        default_model: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ClientSettings:
        """Returns the settings from the arguments, else from RUNPOD_VLLM_ENDPOINT_ID, RUNPOD_API_KEY and so on.

        RUNPOD_API_URL replaces https://api.runpod.ai, for the emulator. With a base URL (a gateway, the emulator) no
        endpoint id is needed, and no key if the server requires none. Raises ConfigurationError.
        """
        environment = os.environ if environment is None else environment
        endpoint_id = endpoint_id or environment.get("RUNPOD_VLLM_ENDPOINT_ID") or None
        api_key = api_key or environment.get("RUNPOD_API_KEY") or (NO_KEY if base_url else None)
        if not base_url and endpoint_id is None:
            raise ConfigurationError("endpoint_id: missing; pass it, or set RUNPOD_VLLM_ENDPOINT_ID, or pass base_url")
        if api_key is None:
            raise ConfigurationError("api_key: missing; pass it, or set RUNPOD_API_KEY")
        api_url = (environment.get("RUNPOD_API_URL") or API_URL).rstrip("/")
        url = (base_url or f"{api_url}{OPENAI_PATH.format(endpoint_id=endpoint_id)}").rstrip("/")
        has_queue = url.endswith(OPENAI_SUFFIX)
        return cls(
            endpoint=endpoint_id or url,
            base_url=url,
            control_url=url.removesuffix(OPENAI_SUFFIX) if has_queue else None,
            api_key=api_key,
            default_model=default_model or environment.get("RUNPOD_DEFAULT_MODEL") or DEFAULT_MODEL,
        )
