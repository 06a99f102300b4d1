"""What is known of a request before it is sent, and what is recorded of it when it has ended. No prompt, no answer."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from vllm_service.domain.usage import Usage


class RequestFacts(msgspec.Struct, frozen=True, gc=False):
    """What quotas and the router decide on.

    operation: "chat.completions", "completions", "responses" or "embeddings".
    prompt_tokens: an estimate, made before any tokenizer runs. max_tokens: the caller's bound on the answer, if any.
    prefix: a hash of how the conversation begins, for prefix-cache affinity; 0 where it is too short for that.
    latency_target_seconds, cap_picousd, strategy, provider: the caller's wishes in headers, if any.
    """

    model: str
    operation: str
    prompt_tokens: int
    max_tokens: int | None = None
    stream: bool = False
    key_id: str = ""
    organisation: str = ""
    prefix: int = 0
    latency_target_seconds: float | None = None
    cap_picousd: int | None = None
    strategy: str | None = None
    provider: str | None = None
    tags: frozenset[str] = frozenset()


class Outcome(StrEnum):
    """How a request ended."""

    __hash__ = str.__hash__  # Enum's own is Python, and each request is counted by its outcome

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REJECTED = "rejected"
    CACHED = "cached"


class RequestRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One row of the ledger. Times are seconds since 1970 (UTC) or milliseconds of a phase; None is not measured.

    storage/ledger/columns.py says what becomes of each field: a new one goes there too.

    cost_picousd: what the provider charges; baseline_picousd: what the configured baseline model would have.
    error_code: ours (`MODEL_503`), for requests that did not complete.
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
    cost_picousd: int | None = None
    baseline_picousd: int | None = None
    stream: bool = False
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    attempts: int = 0
    error_code: str | None = None
    route_reason: str | None = None
    #: A JSON object of texts by name, see gateway/labels.py.
    labels: str | None = None
