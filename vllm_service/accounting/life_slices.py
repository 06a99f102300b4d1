"""Books the lives of workers slice by slice, as their moments become final. Pure; the rule is that of booking.py.

A slice begins where the one before ended, and ends at a midnight (UTC) at the latest. It costs exactly its time, at the
price of now: what was booked before a price changed stays. What RunPod rounds up to a second comes with the last one.
Whoever pays while nothing runs is carried from slice to slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vllm_service.accounting.booking import Booking, RanRequest, WorkerBill, book_slice
from vllm_service.domain.bill import DAY_US
from vllm_service.domain.cost_basis import CostParts
from vllm_service.domain.worker_lives import Keeper, KnownBy, LedgerRow, Span, WorkerLife

_SECOND_US = 1_000_000
#: A worker that was ready for so long without a request of ours was not started for one.
UNCLAIMED_US = 600 * _SECOND_US
#: More requests that waited for one worker do not share its cold start; so the list of them is bounded.
MOST_KEEPERS = 1000
#: So many days after its own a request pays no more for a worker that it kept up: another one keeps it by then.
BACK_DAYS = 7
#: The start of a life that was only counted is not known better than by its looks, and never taken for worse.
_FUZZY_US = 10 * _SECOND_US


@dataclass(frozen=True, slots=True)
class BookedSlice:
    """A slice of a life, booked."""

    #: The life as it is booked now, and until when it was before.
    life: WorkerLife
    begin_us: int
    #: What the slice adds to each request, by its row's id.
    parts: Mapping[int, CostParts]
    #: What no request caused.
    nobody_picousd: int
    #: Of the parts, those of requests that began on a day before the slice's.
    earlier_picousd: int

    @property
    def day(self) -> int:
        """The UTC day of the slice, as days since 1970."""
        return self.begin_us // DAY_US

    @property
    def length_us(self) -> int:
        """The time of the slice."""
        return self.life.booked_until_us - self.begin_us


def next_slice(life: WorkerLife, rows: Sequence[LedgerRow], final_us: int) -> BookedSlice | None:
    """Returns the next slice of a life; None where nothing can be booked yet.

    rows: those of the endpoint that had not ended before the slice and began before final_us, by their start. final_us:
    no row that began before it will come any more.
    """
    begin = life.booked_until_us
    end = life.last_seen_us if life.stopped_at_us is None else life.stopped_at_us
    until = min(final_us, end, (begin // DAY_US + 1) * DAY_US)
    is_last = until == life.stopped_at_us
    price = life.picousd_per_microsecond
    if price is None or until < begin or (until == begin and not is_last):
        return None
    keepers = life.keepers if life.keepers is not None else _causes(life, rows, final_us)
    if keepers is None:
        return None
    cost = _cost(life, price, until, is_last=is_last)
    bill = WorkerBill(life.worker_id, life.provider, begin, until, cost, life.ready_at_us)
    here = [row for row in rows if row.started_us < until and row.ended_us > begin]
    ran = [RanRequest(str(row.row_id), life.provider, row.started_us, row.ended_us) for row in here]
    ran += [RanRequest(None, life.provider, *span) for span in _others(life.running_spans, here)]
    bookings, after = book_slice(bill, ran, [str(keeper.row_id) for keeper in keepers])
    started = {keeper.row_id: keeper.started_at_us for keeper in keepers} | {row.row_id: row.started_us for row in here}
    booked = replace(
        life,
        booked_until_us=until,
        booked_picousd=life.booked_picousd + cost,
        keepers=tuple(Keeper(int(name), started[int(name)]) for name in after if name is not None),
        is_settled=is_last,
        running_spans=tuple(span for span in life.running_spans if span[1] > until),
    )
    return _slice(booked, begin, bookings, started)


def _cost(life: WorkerLife, price: int, until_us: int, *, is_last: bool) -> int:
    """Returns the price of a life's time from where it is booked, rounded up to a second at its end.

    A life that had ended, and goes on after all, has its rounding up already.
    """
    billed_us = until_us - life.started_at_us
    if is_last:
        billed_us = -(-billed_us // _SECOND_US) * _SECOND_US
    booked_us = life.booked_until_us - life.started_at_us
    rounded_up = life.booked_picousd - price * booked_us
    if not 0 <= rounded_up < price * _SECOND_US:  # it was booked at another price
        rounded_up = 0
    return max(0, price * (billed_us - booked_us) - rounded_up)


def _slice(life: WorkerLife, begin: int, bookings: Iterable[Booking], started: Mapping[int, int]) -> BookedSlice:
    parts: dict[int, CostParts] = {}
    nobody = earlier = 0
    for booking in bookings:
        if booking.request_id is None:
            nobody += booking.total_picousd
            continue
        row_id = int(booking.request_id)
        if started[row_id] // DAY_US < begin // DAY_US - BACK_DAYS:
            nobody += booking.total_picousd
            continue
        parts[row_id] = booking.parts
        if started[row_id] // DAY_US < begin // DAY_US:
            earlier += booking.total_picousd
    return BookedSlice(life, begin, parts, nobody, earlier)


def _causes(life: WorkerLife, rows: Sequence[LedgerRow], final_us: int) -> tuple[Keeper, ...] | None:
    """Returns the requests that pay for a cold start; none: no request caused it; None: that is not known yet."""
    fuzzy = min(life.uncertain_us, _FUZZY_US) if life.known_by is KnownBy.HEALTH else 0
    start = life.started_at_us
    waiting = [row for row in rows if row.started_us <= start + fuzzy and row.ended_us >= start]
    if waiting:
        return tuple(_keeper(row) for row in waiting[:MOST_KEEPERS])
    unclaimed_us = start if life.ready_at_us is None else life.ready_at_us
    unclaimed_us += UNCLAIMED_US
    others_us = min((begin for begin, _ in _others(life.running_spans, rows)), default=unclaimed_us)
    first = next((row for row in rows if row.started_us > start), None)
    if first is not None and _is_during(life, first.started_us):
        return () if min(others_us, unclaimed_us) < first.started_us else (_keeper(first),)
    is_over = life.stopped_at_us is not None and final_us >= life.stopped_at_us
    return () if is_over or min(others_us, unclaimed_us) < final_us else None


def _is_during(life: WorkerLife, at_us: int) -> bool:
    return life.stopped_at_us is None or at_us < life.stopped_at_us


def _keeper(row: LedgerRow) -> Keeper:
    return Keeper(row.row_id, row.started_us)


def _others(running: Sequence[Span], rows: Sequence[LedgerRow]) -> list[Span]:
    """Returns when the worker was at work without a request of ours: for another application."""
    found: list[Span] = []
    for begin, end in running:
        at = begin
        for row in rows:  # by their start
            if row.started_us >= end:
                break
            if row.started_us > at:
                found.append((at, row.started_us))
            at = max(at, row.ended_us)
        if at < end:
            found.append((at, end))
    return found
