"""The client of RunPod's REST API for what the gateway reads and changes beside requests."""

from __future__ import annotations

import time
from collections.abc import Callable

from vllm_service.catalog.model import Management, Provider
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_api import RestApi

#: Of the document of one endpoint, whose environment may hold certificates, and of its list of workers. Reading JSON
#: holds up all requests.
LONGEST_BYTES = 2**20


def one_attempt_api(
    provider: Provider,
    management: Management,
    send: SendHttp,
    *,
    timeout_seconds: float,
    limits: RateLimits | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RestApi:
    """Returns a client whose calls are one attempt, wait for no rate limit and read short answers only.

    What fails or has to wait is tried again by the next look.
    """
    return RestApi(
        management.origin,
        provider.api_key,
        send,
        timeout_seconds=timeout_seconds,
        longest_wait_seconds=0.0,
        longest_body_bytes=LONGEST_BYTES,
        limits=limits,
        clock=clock,
    )
