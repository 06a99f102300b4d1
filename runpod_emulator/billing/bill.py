"""The meter and the bill: each worker's seconds by phase, and their price. Microseconds are integers, USD Decimal.

RunPod bills each worker from its start to its full stop, rounded up to a whole second. Cold start, running and idle
time are billed; the time of an unhealthy worker is not (RunPod's documentation, 2026-11).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

MICROSECONDS = 1_000_000


class Phase(StrEnum):
    """The phases of a worker's lifetime."""

    THROTTLED = "throttled"
    COLD_START = "cold_start"
    RUNNING = "running"
    IDLE = "idle"
    UNHEALTHY = "unhealthy"


#: In the order of BillLine's fields.
BILLED = (Phase.COLD_START, Phase.RUNNING, Phase.IDLE)


class Meter:
    """Measures one worker's time, which is always in exactly one phase until the worker stops."""

    def __init__(self, started_at: float, phase: Phase = Phase.COLD_START) -> None:
        self._phase: Phase | None = phase
        self._since = _microseconds(started_at)
        self._spent = dict.fromkeys(Phase, 0)
        #: The billed times that have ended, each from its start to its end; times that touch are one.
        self._billed: list[tuple[int, int]] = []
        self.started_at = started_at
        self.ready_at = started_at if phase in (Phase.RUNNING, Phase.IDLE) else None
        self.stopped_at: float | None = None

    def enter(self, phase: Phase, at: float) -> None:
        """Counts the time from `at` on as `phase`. Does nothing after stop()."""
        if self._phase is not None:
            self._spend(at)
            self._phase = phase
            if self.ready_at is None and phase in (Phase.RUNNING, Phase.IDLE):
                self.ready_at = at

    def stop(self, at: float) -> None:
        """Ends the measurement at `at`."""
        if self._phase is not None:
            self._spend(at)
            self._phase = None
            self.stopped_at = at

    def spent(self, at: float) -> dict[Phase, int]:
        """Returns the microseconds per phase until `at`."""
        spent = dict(self._spent)
        if self._phase is not None:
            spent[self._phase] += max(0, _microseconds(at) - self._since)
        return spent

    def billed_spans(self, at: float) -> list[tuple[int, int]]:
        """Returns the billed times until `at` in microseconds of the clock, in their order; none is empty."""
        if self._phase not in BILLED:
            return list(self._billed)
        return _joined(self._billed, self._since, max(_microseconds(at), self._since))

    def _spend(self, at: float) -> None:
        assert self._phase is not None
        now = max(_microseconds(at), self._since)
        self._spent[self._phase] += now - self._since
        if self._phase in BILLED:
            self._billed = _joined(self._billed, self._since, now)
        self._since = now


@dataclass(frozen=True)
class WorkerTimes:
    """The times when a worker started, became ready and stopped, in seconds since 1970; None: not yet."""

    started_at: float
    ready_at: float | None
    stopped_at: float | None


@dataclass(frozen=True)
class BillLine:
    """One worker on the bill."""

    worker_id: str
    #: The phases as measured, not rounded.
    cold_start_seconds: Decimal
    running_seconds: Decimal
    idle_seconds: Decimal
    #: The sum of the phases, rounded up to a whole second.
    billed_seconds: int
    #: The price of the worker's own GPUs.
    usd_per_second: Decimal
    #: The process's exit code; None while it runs, and for external workers.
    exit_code: int | None = None
    times: WorkerTimes | None = None

    @property
    def usd(self) -> Decimal:
        """Returns what the worker has cost."""
        return self.billed_seconds * self.usd_per_second

    def to_json(self) -> dict[str, Any]:
        """Returns the line as JSON. Money is text, because a JSON number would be read as a float."""
        times = {} if self.times is None else asdict(self.times)
        return times | {
            "worker_id": self.worker_id,
            "cold_start_seconds": float(self.cold_start_seconds),
            "running_seconds": float(self.running_seconds),
            "idle_seconds": float(self.idle_seconds),
            "billed_seconds": self.billed_seconds,
            "usd_per_second": usd_text(self.usd_per_second),
            "total_usd": usd_text(self.usd),
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True)
class Bill:
    """The bill: one line for each worker that has run, in the order of their starts."""

    #: The price of the endpoint's settings. Each line has its own.
    usd_per_second: Decimal
    lines: tuple[BillLine, ...]

    @property
    def billed_seconds(self) -> int:
        """Returns the billed seconds of all workers together."""
        return sum(line.billed_seconds for line in self.lines)

    @property
    def total_usd(self) -> Decimal:
        """Returns the price of all workers together."""
        return sum((line.usd for line in self.lines), Decimal(0))

    def to_json(self) -> dict[str, Any]:
        """Returns the body of GET /billing."""
        return {
            "usd_per_second": usd_text(self.usd_per_second),
            "workers": [line.to_json() for line in self.lines],
            "billed_seconds": self.billed_seconds,
            "total_usd": usd_text(self.total_usd),
        }


def bill_line(
    worker_id: str,
    meter: Meter,
    at: float,
    usd_per_second: Decimal,
    exit_code: int | None = None,
    *,
    clock_began_at: float | None = None,
) -> BillLine:
    """Returns what one worker has cost until `at`.

    clock_began_at: the clock's 0 in seconds since 1970; with it the line has the worker's times.
    """
    spent = meter.spent(at)
    # Rounded up once per worker, not per phase, as RunPod does; -(-a // b) rounds integers up.
    billed = -(-sum(spent[phase] for phase in BILLED) // MICROSECONDS)
    cold, running, idle = (Decimal(spent[phase]) / MICROSECONDS for phase in BILLED)
    times = None if clock_began_at is None else _times(meter, clock_began_at)
    return BillLine(worker_id, cold, running, idle, billed, usd_per_second, exit_code, times)


def usd_text(amount: Decimal) -> str:
    """Returns an amount without an exponent: 0.00019, never 1.9E-4."""
    return f"{amount:f}"


def _times(meter: Meter, clock_began_at: float) -> WorkerTimes:
    ready, stopped = (None if at is None else clock_began_at + at for at in (meter.ready_at, meter.stopped_at))
    return WorkerTimes(clock_began_at + meter.started_at, ready, stopped)


def _joined(spans: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """Returns the spans with one more at their end."""
    if begin == end:
        return list(spans)
    if spans and spans[-1][1] == begin:
        return [*spans[:-1], (spans[-1][0], end)]
    return [*spans, (begin, end)]


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)
