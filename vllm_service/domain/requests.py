"""A request's facts before it is sent, and its record when it has ended. Neither holds the prompt or the answer."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.usage import Usage


class RequestFacts(msgspec.Struct, frozen=True, gc=False):
    """The facts that quotas and the router decide on."""

    model: str
    #: "chat.completions", "completions", "responses" or "embeddings".
    operation: str
    #: An estimate, made before any tokenizer runs.
    prompt_tokens: int
    #: The most tokens of all answers together, by the caller's bound or the model's context; None: neither is known.
    max_tokens: int | None = None
    stream: bool = False
    key_id: str = ""
    organisation: str = ""
    #: A hash of how the conversation begins, for prefix-cache affinity; 0 where it is too short for that.
    prefix: int = 0
    #: This and the following fields come from routing headers, where the caller set them.
    latency_target_seconds: float | None = None
    cap_picousd: int | None = None
    strategy: str | None = None
    provider: str | None = None
    tags: frozenset[str] = frozenset()
    #: How many answers the request makes: prompts of a list, times `n` or `best_of`.
    choices: int = 1
    #: Whether only offers of a known price may answer, because a budget in dollars has to hold.
    needs_price: bool = False


class Outcome(StrEnum):
    """How a request ended."""

    __hash__ = str.__hash__  # Enum's own is Python, and each request is counted by its outcome

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REJECTED = "rejected"
    CACHED = "cached"


# Python looks a member up at its Enum's class slowly, and each request is compared with these several times.
COMPLETED = Outcome.COMPLETED
CACHED = Outcome.CACHED


class RequestRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One row of the ledger. Times are seconds since 1970 (UTC) or milliseconds of a phase; None is not measured.

    storage/ledger/columns.py holds one column per field: a new field goes there too.
    """

    request_id: str
    started_at: float
    key_id: str
    organisation: str
    operation: str
    model: str
    outcome: Outcome
    status: int
    provider: str | None = None
    upstream_model: str | None = None
    usage: Usage | None = None
    #: What the provider charges.
    cost_picousd: int | None = None
    #: What the cost rests on; None where there is no cost, or the row is from before this was noted.
    cost_basis: CostBasis | None = None
    #: The parts of the cost as booked from worker seconds, see docs/accounting.md; None: not booked.
    execution_picousd: int | None = None
    cold_start_picousd: int | None = None
    idle_picousd: int | None = None
    #: What the configured baseline model would have charged.
    baseline_picousd: int | None = None
    stream: bool = False
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    attempts: int = 0
    #: The gateway's own code (`MODEL_503`), of requests that did not complete.
    error_code: str | None = None
    route_reason: str | None = None
    #: A JSON object of texts by name, see gateway/labels.py.
    labels: str | None = None

    @property
    def is_unpriced(self) -> bool:
        """True if a provider's work has an unknown cost. A request that was refused, or got no answer, is none."""
        return self.cost_picousd is None and (self.usage is not None or self.outcome is COMPLETED)
