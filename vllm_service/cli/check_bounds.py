"""The part of `check` that reads how many workers RunPod lets an endpoint have."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.catalog.model import Provider
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.one_attempt_api import one_attempt_api
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.worker_bounds import parse_bounds, scaled_down_reason


@dataclass(frozen=True, slots=True)
class BoundsFound:
    """The greatest number of workers of an endpoint, or why it is not known."""

    workers_max: int | None = None
    #: Why RunPod seems to have lowered the number, and the remedy.
    scaled_down: str | None = None
    #: Why the number could not be read.
    problem: str | None = None


async def find_bounds(provider: Provider, send: SendHttp, timeout_seconds: float) -> BoundsFound:
    """Returns what RunPod's REST API says of the endpoint's bounds; nothing for a provider that has none."""
    management = provider.management
    if management is None:
        return BoundsFound()
    api = one_attempt_api(provider, management, send, timeout_seconds=timeout_seconds)
    try:
        most = parse_bounds(await api.get(management.path)).most
    except RestError as error:
        return BoundsFound(problem=error.message)
    wanted = dict(provider.expected).get("max_workers")
    return BoundsFound(most, scaled_down_reason(most, None if wanted is None else int(wanted)))
