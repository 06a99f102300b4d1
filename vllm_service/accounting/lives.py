"""Follows the lives of an endpoint's workers from a series of looks. Pure: times come with the looks.

A list of workers names each one and its start, so that only the moments of being ready and of stopping have to be
inferred: each lies between two looks, and the middle counts. Counts name no worker: more of them than before are new
lives, fewer are ended ones, and it does not matter to the bill which. What lies in a gap between two looks is bounded
by it, and noted in `uncertain_us`.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from vllm_service.domain.worker_lives import EndpointSight, KnownBy, Phase, Span, WorkerCounts, WorkerLife, WorkerSight

_SECOND_US = 1_000_000
#: Further workers of one endpoint are not followed: an endpoint has far fewer.
MOST_LIVES = 1000
#: Ended lives that are remembered, in case their workers are seen again.
MOST_ENDED = 200
MOST_SPANS = 128
#: Starts of one worker that differ by less are the same start.
SAME_START_US = 2 * _SECOND_US
#: A list's start that lies further in the future is none: its worker is there already.
_FUTURE_US = 10 * _SECOND_US
#: Nor is one from longer ago, such as a time of 0: decades of a worker would be booked.
_LONGEST_LIFE_US = 90 * 86_400 * _SECOND_US
_UNNAMED = "unnamed-"

Price = Callable[[str | None, int | None], int | None]


@dataclass(frozen=True, kw_only=True)
class LivesSettings:
    """Times of an endpoint that are known beforehand, in microseconds."""

    #: After so long without work a worker is stopped.
    idle_timeout_us: int = 5 * _SECOND_US
    #: How long a cold start takes, where no look has seen its end.
    cold_start_us: int = 60 * _SECOND_US
    #: Looks that are further apart have a gap between them, in which nothing is taken to have stayed as it was.
    gap_us: int = 20 * _SECOND_US
    #: A worker that was not seen for so long, because nothing was, is taken to have stopped.
    unseen_us: int = 900 * _SECOND_US


class EndpointLives:
    """The lives at one endpoint. price: pico-dollars per microsecond by GPU type and count; None is unknown."""

    def __init__(self, provider: str, endpoint_id: str, price: Price, settings: LivesSettings | None = None) -> None:
        self._provider = provider
        self._endpoint_id = endpoint_id
        self._price = price
        self._settings = settings or LivesSettings()
        #: By life_id.
        self._open: dict[str, WorkerLife] = {}
        self._ended: OrderedDict[str, WorkerLife] = OrderedDict()
        #: When the endpoint was last seen, in microseconds since 1970; None: never.
        self.looked_at_us: int | None = None
        #: The open lives that were running at the last look.
        self._running: frozenset[str] = frozenset()

    @property
    def open(self) -> Sequence[WorkerLife]:
        """The lives that go on, as far as is known."""
        return tuple(self._open.values())

    def restore(self, lives: Iterable[WorkerLife]) -> None:
        """Takes over what was known before: open lives, and those that ended of late."""
        for life in lives:
            seen = replace(life, last_seen_us=max(life.last_seen_us, life.booked_until_us))
            if seen.stopped_at_us is None:
                self._open[seen.life_id] = seen
            else:
                self._remember(seen)
        if self._open:
            self.looked_at_us = max(life.last_seen_us for life in self._open.values())

    def observe(self, sight: EndpointSight) -> list[WorkerLife]:
        """Takes one look, and returns the lives that it has changed, ended ones included.

        A look from before the last one is left out, as from a replica that was slower; unless it is so much earlier
        that the clock must have been set back.
        """
        before = self.looked_at_us
        if before is not None and 0 <= before - sight.at_us <= self._settings.gap_us:
            return []
        if sight.workers is None and sight.counts is None:
            return self.expire(sight.at_us)
        changed = _Changes(self, sight.at_us, before if before is not None and before < sight.at_us else None)
        if sight.workers is not None:
            self._observe_list(sight.workers[:MOST_LIVES], changed)
        elif sight.counts is not None:
            self._observe_counts(sight.counts, changed)
        self.looked_at_us = sight.at_us
        self._running = frozenset(changed.running)
        return list(changed.lives.values())

    def expire(self, at_us: int) -> list[WorkerLife]:
        """Ends the lives that were not seen for too long, because the endpoint was not; returns them."""
        ended: dict[str, WorkerLife] = {}
        for life in list(self._open.values()):
            if at_us - life.last_seen_us > self._settings.unseen_us:
                stopped = life.last_seen_us + self._settings.idle_timeout_us
                self._close(life, stopped, self._settings.unseen_us, ended)
        return list(ended.values())

    def booked(self, life: WorkerLife) -> None:
        """Takes over until when a life is booked; what was kept for that is forgotten."""
        known = self._open if life.life_id in self._open else self._ended
        if (seen := known.get(life.life_id)) is not None:
            until = life.booked_until_us
            spans = tuple((max(start, until), end) for start, end in seen.running_spans if end > until)
            known[life.life_id] = replace(
                seen,
                booked_until_us=until,
                booked_picousd=life.booked_picousd,
                keepers=life.keepers,
                is_settled=life.is_settled,
                running_spans=spans,
            )

    def _observe_list(self, workers: Sequence[WorkerSight], changed: _Changes) -> None:
        known: defaultdict[str, list[WorkerLife]] = defaultdict(list)
        for life in (*self._open.values(), *self._ended.values()):
            known[life.worker_id].append(life)
        gone = dict(self._open)
        unmatched: list[WorkerSight] = []
        for worker in workers:
            same = _same(known[worker.worker_id], worker, changed.at_us)
            if same is not None:
                gone.pop(same.life_id, None)
                self._see(same, worker, changed)
            elif _is_billed(worker):
                unmatched.append(worker)
        # A life that was only counted so far is one of the workers that the list names now.
        nameless = sorted((life for life in gone.values() if life.worker_id.startswith(_UNNAMED)), key=_start)
        by_start = sorted(unmatched, key=lambda worker: worker.started_at_us or 0)
        for worker, life in zip(by_start, nameless, strict=False):
            del gone[life.life_id]
            self._see(_named(life, worker, changed.at_us), worker, changed)
        for life in gone.values():
            self._end(life, changed)
        for worker in by_start[len(nameless) :][: MOST_LIVES - len(self._open)]:
            self._see(self._begun(worker, changed), worker, changed)

    def _begun(self, worker: WorkerSight, changed: _Changes) -> WorkerLife:
        started = _plausible_start(worker, changed.at_us)
        uncertain = 0
        if started is None:
            started, uncertain = changed.middle()
        return self._new(worker.worker_id, started, KnownBy.WORKERS, uncertain)

    def _new(self, worker_id: str, started_us: int, known_by: KnownBy, uncertain_us: int) -> WorkerLife:
        return WorkerLife(
            life_id=f"{self._provider}/{self._endpoint_id}/{worker_id}@{started_us}",
            provider=self._provider,
            endpoint_id=self._endpoint_id,
            worker_id=worker_id,
            started_at_us=started_us,
            known_by=known_by,
            last_seen_us=started_us,
            picousd_per_microsecond=self._price(None, None),
            booked_until_us=started_us,
            uncertain_us=uncertain_us,
        )

    def _see(self, life: WorkerLife, worker: WorkerSight, changed: _Changes) -> None:
        """Notes that a listed worker is there."""
        gpu_type = worker.gpu_type or life.gpu_type
        gpu_count = worker.gpu_count or life.gpu_count
        named = replace(
            life,
            gpu_type=gpu_type,
            gpu_count=gpu_count,
            data_center=worker.data_center or life.data_center,
            picousd_per_microsecond=self._price(gpu_type, gpu_count),
        )
        self._go_on(named, changed, is_warm=worker.phase is Phase.WARM, is_running=worker.is_running)

    def _go_on(self, life: WorkerLife, changed: _Changes, *, is_warm: bool, is_running: bool) -> None:
        ready = life.ready_at_us
        if ready is None and is_warm:
            ready = self._ready(life, changed)
        was_running = life.life_id in self._running
        spans = life.running_spans
        if is_running:
            changed.running.add(life.life_id)
            if was_running and changed.before_us is not None and not changed.is_gap:
                spans = _with(spans, (changed.before_us, changed.at_us))
        self._ended.pop(life.life_id, None)
        self._open[life.life_id] = changed.lives[life.life_id] = replace(
            life,
            ready_at_us=ready,
            last_seen_us=max(life.last_seen_us, changed.at_us),
            stopped_at_us=None,
            is_settled=False,
            running_spans=spans,
        )

    def _ready(self, life: WorkerLife, changed: _Changes) -> int:
        """Returns when a worker became ready that no look before had seen ready."""
        earliest = max(life.started_at_us, changed.before_us or 0)
        latest = max(earliest, changed.at_us)
        if changed.is_gap:
            return min(max(life.started_at_us + self._settings.cold_start_us, earliest), latest)
        return (earliest + latest) // 2

    def _end(self, life: WorkerLife, changed: _Changes) -> None:
        """Notes that a worker is gone: it stopped between the last look that saw it and this one."""
        first, last = life.last_seen_us, max(changed.at_us, life.last_seen_us)
        if last - first <= self._settings.gap_us:
            stopped = (first + last) // 2
        else:
            stopped = min(first + self._settings.idle_timeout_us, last)
        self._close(life, stopped, max(stopped - first, last - stopped), changed.lives)

    def _close(self, life: WorkerLife, stopped_us: int, uncertain_us: int, changed: dict[str, WorkerLife]) -> None:
        self._open.pop(life.life_id, None)
        stopped = max(stopped_us, life.started_at_us, life.booked_until_us)
        closed = replace(life, stopped_at_us=stopped, uncertain_us=life.uncertain_us + uncertain_us)
        changed[life.life_id] = closed
        self._remember(closed)

    def _remember(self, life: WorkerLife) -> None:
        self._ended[life.life_id] = life
        while len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)

    def _observe_counts(self, counts: WorkerCounts, changed: _Changes) -> None:
        starting = sorted((life for life in self._open.values() if life.ready_at_us is None), key=_start)
        warm = sorted((life for life in self._open.values() if life.ready_at_us is not None), key=_start)
        promoted = max(0, min(counts.warm - len(warm), len(starting)))
        warm += starting[:promoted]
        starting = starting[promoted:]
        for lives, count, is_warm in ((warm, counts.warm, True), (starting, counts.starting, False)):
            # The youngest go first: RunPod stops what is idle, and on the bill one is like the other.
            for life in lives[count:]:
                self._end(life, changed)
            lives[count:] = []
            for number in range(len(lives) + min(count - len(lives), MOST_LIVES - len(self._open))):
                life = lives[number] if number < len(lives) else self._counted(changed)
                self._go_on(life, changed, is_warm=is_warm, is_running=is_warm and number < counts.running)

    def _counted(self, changed: _Changes) -> WorkerLife:
        started, uncertain = changed.middle()
        changed.names += 1
        return self._new(f"{_UNNAMED}{changed.at_us}-{changed.names}", started, KnownBy.HEALTH, uncertain)


class _Changes:
    """One look at its work. before_us: the look before; None: there was none."""

    def __init__(self, lives: EndpointLives, at_us: int, before_us: int | None) -> None:
        self.at_us = at_us
        self.before_us = before_us
        self.unseen_us = lives._settings.unseen_us
        self.is_gap = before_us is None or at_us - before_us > lives._settings.gap_us
        self.lives: dict[str, WorkerLife] = {}
        self.running: set[str] = set()
        #: How many workers this look has named, since they are only counted.
        self.names = 0

    def middle(self) -> tuple[int, int]:
        """Returns the middle between the two looks, and how far off it may be; after a gap, this look."""
        if self.before_us is None:
            return self.at_us, self.unseen_us
        if self.is_gap:
            return self.at_us, self.at_us - self.before_us
        return (self.before_us + self.at_us) // 2, (self.at_us - self.before_us) // 2


def _is_billed(worker: WorkerSight) -> bool:
    """Returns whether a new worker is on the bill: not while it loads its image, before it has started."""
    return worker.phase is Phase.WARM or (worker.phase is Phase.STARTING and worker.started_at_us is not None)


def _same(lives: Sequence[WorkerLife], worker: WorkerSight, at_us: int) -> WorkerLife | None:
    """Returns the life of a worker that is still billed: an open one, or one that was taken to have ended too early."""
    if worker.phase is Phase.UNBILLED:
        return None
    started = _plausible_start(worker, at_us)
    for life in lives:
        is_open = life.stopped_at_us is None
        if started is None:
            is_same = is_open
        else:
            # The start of a life that was counted first is inferred, so it may differ from the list's.
            is_adopted = is_open and life.known_by is not KnownBy.WORKERS and started <= life.last_seen_us
            is_same = is_adopted or abs(life.started_at_us - started) <= SAME_START_US
        if is_same:
            return life
    return None


def _named(life: WorkerLife, worker: WorkerSight, at_us: int) -> WorkerLife:
    """Returns a life that was only counted, with the worker's name, and with its start where nothing is booked yet."""
    started = _plausible_start(worker, at_us)
    if started is None or life.booked_until_us > life.started_at_us:
        return replace(life, worker_id=worker.worker_id)
    ready = None if life.ready_at_us is None else max(life.ready_at_us, started)
    return replace(
        life,
        worker_id=worker.worker_id,
        started_at_us=started,
        booked_until_us=started,
        ready_at_us=ready,
        known_by=KnownBy.WORKERS,
        uncertain_us=0,
    )


def _plausible_start(worker: WorkerSight, at_us: int) -> int | None:
    started = worker.started_at_us
    if started is None or not at_us - _LONGEST_LIFE_US <= started <= at_us + _FUTURE_US:
        return None
    return started


def _start(life: WorkerLife) -> int:
    return life.started_at_us


def _with(spans: tuple[Span, ...], new: Span) -> tuple[Span, ...]:
    if spans and spans[-1][1] >= new[0]:
        return (*spans[:-1], (spans[-1][0], max(new[1], spans[-1][1])))
    return (*spans, new)[-MOST_SPANS:]
