"""The values of RunPod's batch jobs as its API reports them, and how a batch's requests are cut into calls. Pure.

Names, states and limits are those of RunPod's documentation of 2026-08, where batch jobs are beta. Unknown fields are
ignored, because the platform adds some.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vllm_service.client.payload import encoded
from vllm_service.client.runpod.jobs import FINAL, JobStatus
from vllm_service.errors import InvalidRequest, UpstreamFailed

#: The largest body of one call that adds requests: 10 MiB.
MAX_CALL_BYTES = 10 * 1024 * 1024
#: The most results that one batch can have: no account may queue more in a day.
MAX_RESULTS = 1_000_000
_HEAD, _TAIL = b'{"requests":[', b"]}"


class BatchState(StrEnum):
    """The states of a batch, as RunPod spells them. A batch that runs, or has run, stays FINALIZED."""

    DRAFT = "DRAFT"
    FINALIZED = "FINALIZED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """The state of a batch and the numbers of its requests."""

    id: str
    state: BatchState
    #: None where the platform does not say it, as in the answers to changes.
    total: int | None = None
    in_progress: int | None = None
    completed: int | None = None
    failed: int | None = None
    name: str | None = None
    #: Milliseconds since 1970.
    created_at_ms: int | None = None

    @property
    def done(self) -> int:
        """Returns how many requests have ended, with success or without."""
        return (self.completed or 0) + (self.failed or 0)

    @property
    def is_done(self) -> bool:
        """Returns whether nothing of the batch will run any more: RunPod has no state for that."""
        if self.state in (BatchState.FAILED, BatchState.CANCELLED):
            return True
        return self.state is BatchState.FINALIZED and self.total is not None and self.done >= self.total


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One request of a batch with what has become of it."""

    id: str
    #: Its place in the platform's list, from 0: `results(start=position + 1)` goes on behind it.
    position: int
    status: JobStatus
    #: The result of a completed request.
    output: Any = None
    error_text: str | None = None
    #: As the platform writes them: ISO 8601, or None before.
    started_at: str | None = None
    completed_at: str | None = None

    @property
    def is_final(self) -> bool:
        """Returns whether the request has ended, with success or without."""
        return self.status in FINAL

    @property
    def key(self) -> str | None:
        """Returns the `key` that openai_input was given; None of a request without one, or without an answer.

        vLLM puts a request's own id behind the first dash of its answer's id, as in `chatcmpl-KEY`.
        """
        answer_id = self._answer.get("id")
        return answer_id.partition("-")[2] or None if isinstance(answer_id, str) else None

    @property
    def text(self) -> str | None:
        """Returns the first choice's text of an OpenAI-form answer, else None."""
        choices = self._answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, Mapping):
            return None
        message = first.get("message")
        text = message.get("content") if isinstance(message, Mapping) else first.get("text")
        return text if isinstance(text, str) else None

    @property
    def _answer(self) -> Mapping[str, Any]:
        """Returns the answer in OpenAI's form: a worker's one output of the OpenAI route, or the output itself."""
        one = self.output[0] if isinstance(self.output, list) and len(self.output) == 1 else self.output
        return one if isinstance(one, Mapping) else {}


@dataclass(frozen=True, slots=True)
class ResultPage:
    """One page of a batch's requests."""

    results: tuple[BatchResult, ...]
    has_more: bool


def read_summary(document: object) -> BatchSummary:
    """Returns the batch of a response. Raises UpstreamFailed if it is none."""
    fields = document if isinstance(document, Mapping) else {}
    batch_id = fields.get("id")
    state = fields.get("status")
    if not isinstance(batch_id, str) or not isinstance(state, str) or state not in BatchState.__members__:
        raise UpstreamFailed("the answer is not a batch of RunPod's; does this endpoint have batch jobs?")
    return BatchSummary(
        id=batch_id,
        state=BatchState(state),
        total=_count(fields.get("requestTotal")),
        in_progress=_count(fields.get("requestInProgress")),
        completed=_count(fields.get("requestCompleted")),
        failed=_count(fields.get("requestFailed")),
        name=_text(fields.get("name")),
        created_at_ms=_count(fields.get("createdAt")),
    )


def read_batches(document: object) -> list[BatchSummary]:
    """Returns the batches of a list, which is bare or under `batches`. Raises UpstreamFailed."""
    listed = document.get("batches") if isinstance(document, Mapping) else document
    if not isinstance(listed, list):
        raise UpstreamFailed("the answer is no list of batches")
    return [read_summary(one) for one in listed]


def read_page(document: object, offset: int) -> ResultPage:
    """Returns the page that begins at `offset`. Raises UpstreamFailed if the answer is none."""
    fields = document if isinstance(document, Mapping) else {}
    listed = fields.get("requests")
    if not isinstance(listed, list):
        raise UpstreamFailed("the answer is no page of a batch's requests")
    results = tuple(_result(one, offset + number) for number, one in enumerate(listed))
    return ResultPage(results, has_more=fields.get("hasMore") is True)


def _result(document: object, position: int) -> BatchResult:
    fields = document if isinstance(document, Mapping) else {}
    request_id = fields.get("id")
    status = fields.get("status")
    if not isinstance(request_id, str) or not isinstance(status, str) or status not in JobStatus.__members__:
        raise UpstreamFailed(f"the batch's request {position} has no id or no known status")
    error = fields.get("error")
    return BatchResult(
        id=request_id,
        position=position,
        status=JobStatus(status),
        output=fields.get("output"),
        error_text=error if isinstance(error, str) or error is None else str(error),
        started_at=_text(fields.get("startedAt")),
        completed_at=_text(fields.get("completedAt")),
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call's body, and how many requests are in it."""

    content: bytes
    requests: int


def calls_for(inputs: Iterable[Mapping[str, Any]], max_bytes: int = MAX_CALL_BYTES) -> Iterator[Call]:
    """Yields the calls that add these job inputs in order, each body at most `max_bytes`.

    Only one call's requests are in memory at a time. Raises InvalidRequest, which names the input by its place.
    """
    room = max_bytes - len(_HEAD) - len(_TAIL)
    parts: list[bytes] = []
    used = 0
    for number, one in enumerate(inputs):
        part = b'{"input":%b}' % _encoded(one, number)
        if len(part) > room:
            raise InvalidRequest(
                f"inputs[{number}]: {len(part)} bytes of JSON; one call holds {room}", param=f"inputs[{number}]"
            )
        if parts and used + len(part) + 1 > room:
            yield _call(parts)
            parts, used = [], 0
        used += len(part) + bool(parts)
        parts.append(part)
    if parts:
        yield _call(parts)


def _call(parts: list[bytes]) -> Call:
    return Call(_HEAD + b",".join(parts) + _TAIL, len(parts))


def _encoded(one: object, number: int) -> bytes:
    if not isinstance(one, Mapping):
        raise InvalidRequest(
            f"inputs[{number}]: expected a job's input, a mapping, got {type(one).__name__}", param=f"inputs[{number}]"
        )
    return encoded(one, f"inputs[{number}]")


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and 0 <= value < 2**53 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
