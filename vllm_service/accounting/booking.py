"""Books each worker's bill to the requests that caused it, exact to the pico-dollar.

RunPod bills a worker from its start to its stop (as of 2026-11). Its bill is cut by what the time was spent on:

- cold start, from its start until it was ready: paid by the requests for which it was woken; where none is named, by
  the requests of the endpoint that were waiting when it started; else by the first that it served.
- execution, whenever it was ready and a request ran: paid by those that ran, in equal parts at each moment.
- idle, whenever it was ready and none ran: paid by the request that ended last before; before the first one, by those
  that pay for the cold start. A request that keeps a worker up pays for keeping it up.

What RunPod rounds up is spread over the three as they stand. What no request caused is booked to request_id None.
Sums are exact: what is left after rounding down goes, unit by unit, to the largest remainders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vllm_service.accounting.timeline import Timeline
from vllm_service.domain.cost_basis import CostParts
from vllm_service.domain.money import split


@dataclass(frozen=True, slots=True)
class WorkerBill:
    """One worker's times, in microseconds since 1970, and its cost."""

    worker_id: str
    endpoint: str
    started_us: int
    stopped_us: int
    cost_picousd: int
    #: None: it stopped without ever having been ready.
    ready_us: int | None = None
    #: Ids of the requests for which it was woken, where that is known.
    woken_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a worker that stops before it starts, or whose cost is below 0."""
        if self.stopped_us < self.started_us or self.cost_picousd < 0:
            raise ValueError(f"worker {self.worker_id}: stops before it starts, or its cost is below 0")

    @property
    def serving_from_us(self) -> int:
        """The end of its cold start: when it was ready, or stopped without ever having been."""
        ready = self.stopped_us if self.ready_us is None else self.ready_us
        return min(max(ready, self.started_us), self.stopped_us)  # a bill's times need not be in order


@dataclass(frozen=True, slots=True)
class RanRequest:
    """A request that was sent to an endpoint, however it ended."""

    #: None: the work of another application, which no request of ours pays for.
    request_id: str | None
    endpoint: str
    started_us: int
    ended_us: int
    #: The worker that ran it, if that is known; else each worker that was up counts it.
    worker_id: str | None = None


@dataclass(slots=True)
class Booking:
    """The parts of an endpoint's bill that one request pays for."""

    #: None: no request caused it.
    request_id: str | None
    endpoint: str
    execution_picousd: int = 0
    cold_start_picousd: int = 0
    idle_picousd: int = 0

    @property
    def total_picousd(self) -> int:
        """The sum of the three."""
        return self.execution_picousd + self.cold_start_picousd + self.idle_picousd

    @property
    def parts(self) -> CostParts:
        """The three."""
        return CostParts(self.execution_picousd, self.cold_start_picousd, self.idle_picousd)


@dataclass
class _Books:
    """One endpoint's bookings as they grow, by request."""

    endpoint: str
    bookings: dict[str | None, Booking] = field(default_factory=dict)

    def of(self, request_id: str | None) -> Booking:
        if request_id not in self.bookings:
            self.bookings[request_id] = Booking(request_id, self.endpoint)
        return self.bookings[request_id]


def book(workers: Iterable[WorkerBill], requests: Iterable[RanRequest]) -> list[Booking]:
    """Returns one booking per request that pays for something; together they are the workers' bills, exactly."""
    by_endpoint: defaultdict[str, list[RanRequest]] = defaultdict(list)
    for request in sorted(requests, key=_by_time):
        by_endpoint[request.endpoint].append(request)
    books: dict[str, _Books] = {}
    for worker in workers:
        own = books.setdefault(worker.endpoint, _Books(worker.endpoint))
        here = [
            request
            for request in by_endpoint[worker.endpoint]
            if request.worker_id in (None, worker.worker_id)
            and request.started_us < worker.stopped_us
            and request.ended_us >= worker.started_us
        ]
        _book_worker(worker, here, _causes(worker, here), own)
    return [booking for own in books.values() for booking in own.bookings.values() if booking.total_picousd]


def book_slice(
    part: WorkerBill, ran: Iterable[RanRequest], keepers: Sequence[str | None]
) -> tuple[list[Booking], Sequence[str | None]]:
    """Books a part of a worker's time, after the parts before it.

    keepers: the ids that pay while nothing runs, as the part before has returned them; at first those that pay for the
    cold start. Returns the bookings, exact, and the keepers at the end of this part.
    """
    here = sorted(
        (request for request in ran if request.started_us < part.stopped_us and request.ended_us > part.started_us),
        key=_by_time,
    )
    books = _Books(part.endpoint)
    after = _book_worker(part, here, keepers or (None,), books)
    return [booking for booking in books.bookings.values() if booking.total_picousd], after


def due(workers: Sequence[WorkerBill], requests: Sequence[RanRequest]) -> dict[str, CostParts]:
    """Returns what each request pays, by its id, of all that were at an endpoint while one of its workers was billed.

    Some owe nothing. Together they are the bill, less what no request caused.
    """
    parts = {
        request.request_id: CostParts()
        for request in requests
        if request.request_id is not None
        and any(
            worker.endpoint == request.endpoint
            and request.started_us < worker.stopped_us
            and request.ended_us >= worker.started_us
            for worker in workers
        )
    }
    for booking in book(workers, requests):
        if booking.request_id is not None:
            parts[booking.request_id] = booking.parts
    return parts


def _by_time(request: RanRequest) -> tuple[int, int, str]:
    return request.started_us, request.ended_us, request.request_id or ""


def _book_worker(
    worker: WorkerBill, here: Sequence[RanRequest], causes: Sequence[str | None], books: _Books
) -> Sequence[str | None]:
    """Books one worker. here: the requests that were there, by time. Returns the ids that pay for idling after it."""
    ran = [(request.started_us, request.ended_us) for request in here]
    timeline = Timeline(ran, worker.serving_from_us, worker.stopped_us)
    cold_us = worker.serving_from_us - worker.started_us
    parts = (cold_us, timeline.busy_us, timeline.idle_us)
    # A worker that stopped as it started has no time to go by: all of its bill is its start.
    cold, busy, idle = split(worker.cost_picousd, parts if any(parts) else (1, 0, 0))
    for cause, share in zip(causes, split(cold, [1] * len(causes)), strict=True):
        books.of(cause).cold_start_picousd += share
    for request, share in zip(here, split(busy, timeline.shares), strict=True):
        books.of(request.request_id).execution_picousd += share
    # Each split is exact, and so is the sum of what is booked: the parts of a part add up to it.
    gaps = list(timeline.gaps())
    for (_, after), amount in zip(gaps, split(idle, [length for length, _ in gaps]), strict=True):
        keepers: Sequence[str | None] = causes if after is None else (here[after].request_id,)
        for keeper, share in zip(keepers, split(amount, [1] * len(keepers)), strict=True):
            books.of(keeper).idle_picousd += share
    last = timeline.last
    return causes if last is None else (here[last].request_id,)


def _causes(worker: WorkerBill, here: Sequence[RanRequest]) -> Sequence[str | None]:
    """Returns the ids that pay for the cold start, and for idling before the first request."""
    if worker.woken_by:
        return worker.woken_by
    waiting = [request.request_id for request in here if request.started_us <= worker.started_us]
    return waiting or [here[0].request_id if here else None]
