"""How the client reaches an endpoint, how often it tries again, how fast it may ask. It alone reads the environment."""

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
NO_KEY = "EMPTY"  # what servers without keys are sent, as vLLM's documentation has it


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and for how long, a transient error is tried again. Waits double from the shortest to the longest.

    jitter_seconds: at most this is added to each wait. total_seconds: from the first attempt to the end of the last.
    Raises ConfigurationError.
    """

    attempts: int = 3
    wait_min_seconds: float = 2.0
    wait_max_seconds: float = 10.0
    jitter_seconds: float = 1.0
    total_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"attempts: at least 1, got {self.attempts}")
        if not 0 <= self.wait_min_seconds <= self.wait_max_seconds:
            raise ConfigurationError(
                f"0 <= wait_min_seconds <= wait_max_seconds, got {self.wait_min_seconds} and {self.wait_max_seconds}"
            )
        if self.jitter_seconds < 0 or self.total_seconds <= 0:
            raise ConfigurationError("jitter_seconds: not below 0; total_seconds: above 0")


ONE_ATTEMPT = RetryPolicy(attempts=1)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `per_window` requests in a window of seconds, and `concurrent` at once."""

    per_window: int
    concurrent: int


# RunPod's limits of one endpoint as of 2026-11 (its documentation). They change: pass others to RunPodVLLMService.
RATE_WINDOW_SECONDS = 10.0
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
    """One endpoint as the client reaches it. `endpoint` names it in errors; `control_url` is where its queue is."""

    endpoint: str
    base_url: str
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
        """What was given, else RUNPOD_VLLM_ENDPOINT_ID, RUNPOD_API_KEY, RUNPOD_DEFAULT_MODEL; or ConfigurationError.

        RUNPOD_API_URL names another RunPod than https://api.runpod.ai: the emulator.
        A base URL of its own (a gateway, the emulator) needs no endpoint id, and no key if that server asks for none.
        """
        environment = os.environ if environment is None else environment
        endpoint_id = endpoint_id or environment.get("RUNPOD_VLLM_ENDPOINT_ID") or None
        api_key = api_key or environment.get("RUNPOD_API_KEY") or (NO_KEY if base_url else None)
        if not base_url and endpoint_id is None:
            raise ConfigurationError("endpoint_id: give it, or set RUNPOD_VLLM_ENDPOINT_ID; or give base_url")
        if api_key is None:
            raise ConfigurationError("api_key: give it, or set RUNPOD_API_KEY")
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
