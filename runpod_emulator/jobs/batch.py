"""The batch jobs of an endpoint: drafts, their requests, and what becomes of them. No I/O.

A batch's requests are jobs. They wait in the batch until it is finalized; then they go into a queue that only the
endpoint's batch workers read. States, names and limits are those of RunPod's documentation of 2026-08.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from runpod_emulator.errors import BadRequest, Conflict, NotFound
from runpod_emulator.jobs.job import Job, Json, Policy, Status
from runpod_emulator.jobs.store import JobStore
from runpod_emulator.settings import EndpointSettings


class BatchStatus(StrEnum):
    """The states of a batch, as RunPod spells them. A batch that runs, or has run, stays FINALIZED."""

    DRAFT = "DRAFT"
    FINALIZED = "FINALIZED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(eq=False)
class Batch:
    """One batch through its life."""

    id: str
    created_at_ms: int
    #: By id, in the order in which they were added.
    requests: dict[str, Job] = field(default_factory=dict)
    status: BatchStatus = BatchStatus.DRAFT
    name: str | None = None
    #: Some of its requests ran when it was cancelled; it is CANCELLED when these have ended.
    is_draining: bool = False

    def counts(self) -> Counter[Status]:
        """Returns how many of its requests are in which status."""
        return Counter(request.status for request in self.requests.values())

    @property
    def has_ended(self) -> bool:
        """Returns whether nothing of it waits or runs, and nothing will."""
        return self.status is not BatchStatus.DRAFT and all(request.is_final for request in self.requests.values())


class Batches:
    """All batches of one endpoint; each method is one atomic step.

    store: the queue of the batch workers. wall_clock: seconds since 1970.
    """

    def __init__(
        self, settings: EndpointSettings, store: JobStore, clock: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._wall_clock = wall_clock
        self._batches: dict[str, Batch] = {}

    def get(self, batch_id: str) -> Batch:
        """Returns a batch. Raises NotFound."""
        batch = self._batches.get(batch_id)
        if batch is None:
            raise NotFound(f"no batch {batch_id}: it does not exist, or was removed after its end")
        return batch

    def newest_first(self) -> list[Batch]:
        """Returns every batch that is kept."""
        return list(reversed(self._batches.values()))

    def create(self, inputs: Sequence[Json]) -> Batch:
        """Makes a draft with these requests, and returns it. Raises BadRequest, Conflict."""
        active = sum(not batch.has_ended for batch in self._batches.values())
        if active >= self._settings.max_active_batches:
            raise Conflict(
                f"the endpoint has {active} active batches, the most it may have: wait for the end of one, or cancel it"
            )
        batch = Batch(f"batch_{secrets.token_hex(8)}", round(self._wall_clock() * 1000))
        self.add(batch, inputs)
        self._batches[batch.id] = batch
        self._forget_old_ones()
        return batch

    def add(self, batch: Batch, inputs: Sequence[Json]) -> None:
        """Adds requests to a draft: all of them or none. Raises BadRequest, Conflict."""
        _require_draft(batch)
        most = self._settings.max_batch_requests
        if len(batch.requests) + len(inputs) > most:
            raise BadRequest(f"requests: a batch holds {most}; this one has {len(batch.requests)} already")
        for job in [self._request(document, number) for number, document in enumerate(inputs)]:
            batch.requests[job.id] = job

    def remove(self, batch: Batch, request_id: str) -> None:
        """Removes a request from a draft. Raises NotFound, Conflict."""
        _require_draft(batch)
        if batch.requests.pop(request_id, None) is None:
            raise NotFound(f"batch {batch.id} has no request {request_id}")

    def finalize(self, batch: Batch) -> None:
        """Locks a draft and queues its requests. Raises Conflict."""
        _require_draft(batch)
        queued = self._store.load().queued
        if queued + len(batch.requests) > self._settings.max_queued_batch_requests:
            raise Conflict(
                f"{queued} requests of batches are queued already; the endpoint's limit is "
                f"{self._settings.max_queued_batch_requests}"
            )
        batch.status = BatchStatus.FINALIZED
        for request in batch.requests.values():
            self._store.enqueue(request)

    def cancel(self, batch: Batch) -> None:
        """Cancels what waits; what runs is finished, and then the batch is CANCELLED. Does nothing after its end."""
        if batch.status is BatchStatus.DRAFT:
            for request in batch.requests.values():
                request.status = Status.CANCELLED
        elif batch.status is not BatchStatus.FINALIZED or batch.has_ended:
            return
        for request in batch.requests.values():
            if request.status is Status.IN_QUEUE:
                self._store.cancel(request)
        batch.is_draining = True
        self.settle()

    def fail(self, reason: str) -> None:
        """Fails every batch that has requests waiting: their workers cannot run."""
        for batch in self._batches.values():
            waiting = [request for request in batch.requests.values() if request.status is Status.IN_QUEUE]
            if batch.status is BatchStatus.FINALIZED and waiting:
                batch.status = BatchStatus.FAILED
        self._store.fail_waiting(reason)

    def settle(self) -> None:
        """Ends the cancellation of batches of which nothing runs any more; to be called now and then."""
        for batch in self._batches.values():
            if batch.is_draining and all(request.is_final for request in batch.requests.values()):
                batch.is_draining = False
                batch.status = BatchStatus.CANCELLED

    def _request(self, document: object, number: int) -> Job:
        if not isinstance(document, dict) or document.get("input") is None:
            raise BadRequest(f'requests[{number}].input: missing; a request is an object like {{"input": {{...}}}}')
        policy = Policy.parse(document.get("policy"), self._settings)
        job = Job(document["input"], policy, self._settings.keep_run_seconds, self._clock())
        job.id = f"req_{job.id}"
        return job

    def _forget_old_ones(self) -> None:
        """Removes the oldest ended batches beyond the number that is kept."""
        ended = [batch.id for batch in self._batches.values() if batch.has_ended and not batch.is_draining]
        for batch_id in ended[: max(0, len(ended) - self._settings.kept_batches)]:
            del self._batches[batch_id]


def summary(batch: Batch, endpoint_id: str) -> Json:
    """Returns the batch as RunPod's summary shows it."""
    counts = batch.counts()
    document: Json = {
        "id": batch.id,
        "endpointId": endpoint_id,
        "status": batch.status.value,
        "requestTotal": len(batch.requests),
        "requestInProgress": counts[Status.IN_PROGRESS],
        "requestCompleted": counts[Status.COMPLETED],
        "requestFailed": counts[Status.FAILED] + counts[Status.TIMED_OUT],
        "createdAt": batch.created_at_ms,
    }
    return document | ({} if batch.name is None else {"name": batch.name})


def request_document(request: Job, iso_time: Callable[[float], str]) -> Json:
    """Returns a request as the list of a batch's requests shows it. iso_time: writes a time of the clock."""
    document: Json = {"id": request.id, "status": request.status.value}
    if request.output is not None:
        document["output"] = request.output
    if request.error is not None:
        document["error"] = request.error
    if request.started_at is not None:
        document["startedAt"] = iso_time(request.started_at)
    if request.finished_at is not None:
        document["completedAt"] = iso_time(request.finished_at)
    return document


def page(documents: Sequence[Any], offset: int, limit: int) -> Json:
    """Returns a page's numbers: total, offset, limit, and whether more follow."""
    return {"total": len(documents), "offset": offset, "limit": limit, "hasMore": offset + limit < len(documents)}


def _require_draft(batch: Batch) -> None:
    if batch.status is not BatchStatus.DRAFT:
        raise Conflict(f"batch {batch.id} is {batch.status}: only a DRAFT can be changed")
