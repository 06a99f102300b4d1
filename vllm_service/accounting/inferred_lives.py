"""Infers the lives of workers that no look has seen, from requests that were answered all the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vllm_service.domain.worker_lives import KnownBy, LedgerRow, WorkerLife


def inferred_lives(
    rows: Iterable[LedgerRow],
    known: Sequence[WorkerLife],
    *,
    provider: str,
    endpoint_id: str,
    idle_timeout_us: int,
    picousd_per_microsecond: int | None,
) -> list[WorkerLife]:
    """Returns the lives without which the rows could not have been answered.

    known: the lives that overlap the rows' time. A worker is taken to have begun with the first of its requests, to
    have been one, and to have been stopped when its idle timeout was over: nothing of it is known better. It was ready
    at once: the seconds of a cold start are in the request that waited for it, and the same request pays.
    """
    spans = [(life.started_at_us, life.stopped_at_us) for life in known]
    unseen = [
        row
        for row in sorted(rows, key=lambda row: row.started_us)
        if row.is_answered
        and not any(
            start <= row.ended_us and row.started_us < (row.ended_us + 1 if stop is None else stop)
            for start, stop in spans
        )
    ]
    found: list[WorkerLife] = []
    for started, ended in _clusters(unseen, idle_timeout_us):
        next_start = min((start for start, _ in spans if start >= ended), default=ended + idle_timeout_us)
        stopped = max(min(ended + idle_timeout_us, next_start), ended + 1)
        found.append(
            WorkerLife(
                life_id=f"{provider}/{endpoint_id}/unseen@{started}",
                provider=provider,
                endpoint_id=endpoint_id,
                worker_id=f"unseen-{started}",
                started_at_us=started,
                known_by=KnownBy.REQUESTS,
                last_seen_us=ended,
                picousd_per_microsecond=picousd_per_microsecond,
                ready_at_us=started,
                stopped_at_us=stopped,
                uncertain_us=stopped - started,
                booked_until_us=started,
            )
        )
    return found


def _clusters(rows: Sequence[LedgerRow], idle_timeout_us: int) -> list[tuple[int, int]]:
    """Returns begin and end of requests that follow one another within the idle timeout."""
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and row.started_us <= found[-1][1] + idle_timeout_us:
            found[-1] = (found[-1][0], max(found[-1][1], row.ended_us))
        else:
            found.append((row.started_us, row.ended_us))
    return found
