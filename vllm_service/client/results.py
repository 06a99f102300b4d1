"""What comes back: an answer with its tokens, cost and times; a batch's items; an ensemble's candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_service.domain.money import to_usd
from vllm_service.domain.usage import Usage
from vllm_service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. None is unknown: a provider without usage, a model without a price.

    latency_ms: from the first attempt to the end. ttft_ms: to the first text; None for answers that came whole.
    message: a chat answer as it came, with its tool calls. attempts: how many requests it took.
    cost_is_estimate: the gateway could only estimate the cost.
    """

    text: str
    model: str
    provider: str
    usage: Usage | None
    cost_picousd: int | None
    latency_ms: float
    ttft_ms: float | None = None
    request_id: str | None = None
    finish_reason: str | None = None
    attempts: int = 1
    message: Mapping[str, Any] | None = None
    route_reason: str | None = None
    cost_is_estimate: bool = False

    @property
    def cost_usd(self) -> float | None:
        """Dollars, for people; add up `cost_picousd`."""
        return to_usd(self.cost_picousd)


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One prompt of a batch: its answer or its error, and whether it was taken from the file of an earlier run."""

    index: int
    answer: Answer | None = None
    error: ServiceError | None = None
    from_file: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one model of an ensemble gave, and what the scorer thought of it; higher is better."""

    model: str
    answer: Answer | None = None
    error: ServiceError | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The best answer, and everything it was chosen from, in the order in which the models were named."""

    best: Answer
    candidates: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        """The best answer's."""
        return self.best.text

    @property
    def cost_picousd(self) -> int | None:
        """What all answers cost; None if one of them has no known cost."""
        costs = [candidate.answer.cost_picousd for candidate in self.candidates if candidate.answer is not None]
        return None if None in costs else sum(cost for cost in costs if cost is not None)
