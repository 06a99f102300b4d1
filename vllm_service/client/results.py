"""The client's results: an answer with its tokens, cost and times; a batch's items; an ensemble's candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_service.client.payload import Choice
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.money import to_usd
from vllm_service.domain.usage import Usage
from vllm_service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of the caller's tools."""

    id: str | None
    name: str
    #: JSON as the model wrote it, which may be invalid.
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. None is unknown, for example the usage of a provider that sends none."""

    text: str
    model: str
    provider: str
    usage: Usage | None
    #: The exact cost; None without a price or without usage.
    cost_picousd: int | None
    #: From the first attempt to the end of the answer.
    latency_ms: float
    #: From the first attempt to the first text; None for answers that came whole.
    ttft_ms: float | None = None
    #: The provider's id of the request.
    request_id: str | None = None
    finish_reason: str | None = None
    #: How many requests were made for it.
    attempts: int = 1
    #: The chat message as it came, with its tool calls; of a stream, put together from its chunks.
    message: Mapping[str, Any] | None = None
    #: The router's reason for the provider.
    route_reason: str | None = None
    #: The cost is the gateway's estimate.
    cost_is_estimate: bool = False
    #: The further choices of a request with `n`; `text` and `message` are the first one's.
    others: tuple[Choice, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Returns all choices of a request with `n`, the first one included."""
        return (Choice(0, self.text, self.finish_reason, self.message), *self.others)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Returns the calls of the caller's tools in `message`."""
        calls = (self.message or {}).get("tool_calls")
        read = [_tool_call(call) for call in calls] if isinstance(calls, list | tuple) else []
        return tuple(call for call in read if call is not None)

    @property
    def cost_basis(self) -> CostBasis | None:
        """Returns what the cost rests on when the answer comes, which is before any bill; None where it is unknown."""
        if self.cost_picousd is None:
            return None
        return CostBasis.EXPECTED if self.cost_is_estimate else CostBasis.BOOKED

    @property
    def cost_usd(self) -> float | None:
        """Returns the cost in dollars, for display. Sums should use `cost_picousd`, which is exact."""
        return to_usd(self.cost_picousd)


@dataclass(frozen=True, slots=True)
class BatchItem:
    """The result of one prompt of a batch: its answer or its error."""

    index: int
    answer: Answer | None = None
    error: ServiceError | None = None
    #: The answer is from the file of an earlier run.
    from_file: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """The result of one model of an ensemble: its answer or its error."""

    model: str
    answer: Answer | None = None
    error: ServiceError | None = None
    #: The scorer's score, higher is better; None without an answer.
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The best answer, and the candidates it was chosen from."""

    best: Answer
    #: In the order in which the models were named.
    candidates: tuple[Candidate, ...]

    @property
    def text(self) -> str:
        """Returns the best answer's text."""
        return self.best.text

    @property
    def cost_picousd(self) -> int | None:
        """Returns the cost of all answers together; None if the cost of one is unknown."""
        costs = [candidate.answer.cost_picousd for candidate in self.candidates if candidate.answer is not None]
        return None if None in costs else sum(cost for cost in costs if cost is not None)


def _tool_call(call: object) -> ToolCall | None:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return None
    name, arguments = function.get("name"), function.get("arguments")
    given_id = call.get("id")
    return ToolCall(
        given_id if isinstance(given_id, str) else None,
        name if isinstance(name, str) else "",
        arguments if isinstance(arguments, str) else "",
    )
