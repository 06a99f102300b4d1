"""A request's facts before it is sent, and its record when it has ended. Neither holds the prompt or the answer."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from vllm_service.domain.usage import Usage


class RequestFacts(msgspec.Struct, frozen=True, gc=False):
    """The facts that quotas and the router decide on."""

    model: str
    #: "chat.completions", "completions", "responses" or "embeddings".
    operation: str
    #: An estimate, made before any tokenizer runs.
    prompt_tokens: int
    #: The caller's bound on the answer, if there is one.
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
