"""Gateway, cost router, ledger and client for your own RunPod endpoint and hosted providers.

Import the client's names from here. Each is loaded at its first use, so that a server does not load the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from vllm_service.version import __version__ as __version__

if TYPE_CHECKING:
    from vllm_service.client.compare import CostComparison, Offering, compare_costs
    from vllm_service.client.deltas import Delta, ToolCallPart
    from vllm_service.client.errors import BatchFailed, JobCancelled, StreamBroken
    from vllm_service.client.payload import Choice
    from vllm_service.client.results import Answer, BatchItem, Candidate, Ensemble, ToolCall
    from vllm_service.client.router.llm_router import Explanation, LLMRouter
    from vllm_service.client.runpod.batch_job import BatchJob
    from vllm_service.client.runpod.batch_values import BatchResult, BatchState, BatchSummary
    from vllm_service.client.runpod.jobs import Job, JobStatus
    from vllm_service.client.runpod.service import RunPodVLLMService
    from vllm_service.client.runpod.sync import RunPodVLLMServiceSync
    from vllm_service.client.settings import RateLimit, RetryPolicy
    from vllm_service.client.streams import TextStream
    from vllm_service.domain.pricing import TokenPrice
    from vllm_service.domain.strategies import RoutingStrategy
    from vllm_service.domain.usage import Usage
    from vllm_service.errors import ServiceError
    from vllm_service.runpod.health import EndpointHealth

__all__ = [
    "Answer",
    "BatchFailed",
    "BatchItem",
    "BatchJob",
    "BatchResult",
    "BatchState",
    "BatchSummary",
    "Candidate",
    "Choice",
    "CostComparison",
    "Delta",
    "EndpointHealth",
    "Ensemble",
    "Explanation",
    "Job",
    "JobCancelled",
    "JobStatus",
    "LLMRouter",
    "Offering",
    "RateLimit",
    "RetryPolicy",
    "RoutingStrategy",
    "RunPodVLLMService",
    "RunPodVLLMServiceSync",
    "ServiceError",
    "StreamBroken",
    "TextStream",
    "TokenPrice",
    "ToolCall",
    "ToolCallPart",
    "Usage",
    "compare_costs",
]

# The modules of the names in __all__.
_HOMES = {
    "vllm_service.client.compare": ("CostComparison", "Offering", "compare_costs"),
    "vllm_service.client.deltas": ("Delta", "ToolCallPart"),
    "vllm_service.client.errors": ("BatchFailed", "JobCancelled", "StreamBroken"),
    "vllm_service.client.runpod.batch_job": ("BatchJob",),
    "vllm_service.client.runpod.batch_values": ("BatchResult", "BatchState", "BatchSummary"),
    "vllm_service.client.runpod.jobs": ("Job", "JobStatus"),
    "vllm_service.client.router.llm_router": ("Explanation", "LLMRouter"),
    "vllm_service.client.payload": ("Choice",),
    "vllm_service.client.results": ("Answer", "BatchItem", "Candidate", "Ensemble", "ToolCall"),
    "vllm_service.client.runpod.service": ("RunPodVLLMService",),
    "vllm_service.client.settings": ("RateLimit", "RetryPolicy"),
    "vllm_service.domain.strategies": ("RoutingStrategy",),
    "vllm_service.client.streams": ("TextStream",),
    "vllm_service.client.runpod.sync": ("RunPodVLLMServiceSync",),
    "vllm_service.domain.pricing": ("TokenPrice",),
    "vllm_service.domain.usage": ("Usage",),
    "vllm_service.errors": ("ServiceError",),
    "vllm_service.runpod.health": ("EndpointHealth",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Imports the module of a public name at the name's first use (PEP 562)."""
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'vllm_service' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
