"""The meter: what each worker did with its seconds, and what they cost. Exact: microseconds are integers, USD Decimal.

RunPod bills per worker from start to full stop, rounded up to a second: cold start, running and idle; not what an
unhealthy worker does (RunPod's documentation, 2026-11).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

MICROSECONDS = 1_000_000


class Phase(StrEnum):
    """What a worker's time is spent on."""

    COLD_START = "cold_start"
    RUNNING = "running"
    IDLE = "idle"
    UNHEALTHY = "unhealthy"


BILLED = (Phase.COLD_START, Phase.RUNNING, Phase.IDLE)


class Meter:
    """One worker's clock: always in one phase until it stops."""

    def __init__(self, started_at: float, phase: Phase = Phase.COLD_START) -> None:
        self._phase: Phase | None = phase
        self._since = _microseconds(started_at)
        self._spent = dict.fromkeys(Phase, 0)
        self.started_at = started_at
        self.ready_at = None if phase is Phase.COLD_START else started_at
        self.stopped_at: float | None = None

    def enter(self, phase: Phase, at: float) -> None:
        """From `at` on, time goes to `phase`; nothing happens once it has stopped."""
        if self._phase is not None:
            self._spend(at)
            self._phase = phase
            if self.ready_at is None and phase in (Phase.RUNNING, Phase.IDLE):
                self.ready_at = at

    def stop(self, at: float) -> None:
        """The worker is gone."""
        if self._phase is not None:
            self._spend(at)
            self._phase = None
            self.stopped_at = at

    def spent(self, at: float) -> dict[Phase, int]:
        """Microseconds per phase until `at`."""
        spent = dict(self._spent)
        if self._phase is not None:
            spent[self._phase] += max(0, _microseconds(at) - self._since)
        return spent

    def _spend(self, at: float) -> None:
        assert self._phase is not None
        now = max(_microseconds(at), self._since)
        self._spent[self._phase] += now - self._since
        self._since = now


@dataclass(frozen=True)
class WorkerTimes:
    """When a worker started, was ready and stopped, in seconds since 1970; None: not yet."""

    started_at: float
    ready_at: float | None
    stopped_at: float | None


@dataclass(frozen=True)
class BillLine:
    """One worker on the bill. The phases are measured in seconds, the whole is rounded up to `billed_seconds`."""

    worker_id: str
    cold_start_seconds: Decimal
    running_seconds: Decimal
    idle_seconds: Decimal
    billed_seconds: int
    usd: Decimal
    exit_code: int | None = None
    times: WorkerTimes | None = None

    def to_json(self) -> dict[str, Any]:
        """Money as text, so that nobody reads it as a float."""
        times = {} if self.times is None else asdict(self.times)
        return times | {
            "worker_id": self.worker_id,
            "cold_start_seconds": float(self.cold_start_seconds),
            "running_seconds": float(self.running_seconds),
            "idle_seconds": float(self.idle_seconds),
            "billed_seconds": self.billed_seconds,
            "total_usd": usd_text(self.usd),
            "exit_code": self.exit_code,
        }


@dataclass(frozen=True)
class Bill:
    """All workers that ever ran, in the order they started."""

    usd_per_second: Decimal
    lines: tuple[BillLine, ...]

    @property
    def billed_seconds(self) -> int:
        """Of all workers together."""
        return sum(line.billed_seconds for line in self.lines)

    @property
    def total_usd(self) -> Decimal:
        """Of all workers together."""
        return sum((line.usd for line in self.lines), Decimal(0))

    def to_json(self) -> dict[str, Any]:
        """What GET /billing answers."""
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
    """What one worker has cost until `at`. clock_began_at: the meter's 0 in seconds since 1970, for its times."""
    spent = meter.spent(at)
    billed = -(-sum(spent[phase] for phase in BILLED) // MICROSECONDS)
    cold, running, idle = (Decimal(spent[phase]) / MICROSECONDS for phase in BILLED)
    times = None if clock_began_at is None else _times(meter, clock_began_at)
    return BillLine(worker_id, cold, running, idle, billed, billed * usd_per_second, exit_code, times)


def usd_text(amount: Decimal) -> str:
    """Digits without an exponent: 0.00019, never 1.9E-4."""
    return f"{amount:f}"


def _times(meter: Meter, clock_began_at: float) -> WorkerTimes:
    ready, stopped = (None if at is None else clock_began_at + at for at in (meter.ready_at, meter.stopped_at))
    return WorkerTimes(clock_began_at + meter.started_at, ready, stopped)


def _microseconds(seconds: float) -> int:
    return round(seconds * MICROSECONDS)
