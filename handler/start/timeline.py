"""The timeline of a start: seconds and cost of each phase, from the start of the process until the engine is ready."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ObservePhase = Callable[[str, float], None]  # the phase's name and its seconds
NANO_USD = Decimal("0.000000001")


@dataclass(frozen=True)
class Phase:
    """One phase of a start. Phases overlap, so their seconds may add up to more than the start took."""

    name: str
    #: Since the start of the process.
    begin_seconds: float
    seconds: float


@dataclass
class Timeline:
    """The phases of one start, as they end."""

    #: The price of the GPU (GPU_USD_PER_SECOND). Without it dollars are null.
    usd_per_second: Decimal | None = None
    #: Called with each phase at its end.
    observe: ObservePhase | None = None
    began_at: float = field(default_factory=lambda: time.monotonic() - process_age_seconds())
    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str, title: str = "") -> Iterator[None]:
        """Times one phase, from any thread. With a title it is announced in the log.

        A phase that fails is not counted.
        """
        begin = time.monotonic()
        if title:
            logger.info("%s ...", title)
        yield
        seconds = time.monotonic() - begin
        if title:
            logger.info("%s took %.1f s", title, seconds)
        self.add(name, begin, seconds)

    def add(self, name: str, begin: float, seconds: float) -> None:
        """Adds a phase that is over; `begin` as `time.monotonic` gives it."""
        self.phases.append(Phase(name, begin - self.began_at, seconds))
        if self.observe:
            self.observe(name, seconds)

    def report(self) -> dict[str, Any]:
        """Logs the start as one line and as one JSON record, and returns the record."""
        record = self.record(time.monotonic() - self.began_at)
        usd = f", ${record['usd']}" if record["usd"] else ""
        parts = ", ".join(f"{phase['name']} {phase['seconds']:.1f}" for phase in record["phases"])
        logger.info("ready after %.1f s%s: %s", record["seconds"], usd, parts)
        logger.info("cold_start %s", json.dumps(record))
        return record

    def record(self, seconds: float) -> dict[str, Any]:
        """Returns `{seconds, usd, phases: [{name, begin_seconds, seconds, usd}]}`.

        Dollars are exact decimal strings, or null where the price is unknown.
        """
        return {
            "seconds": round(seconds, 3),
            "usd": self._usd(seconds),
            "phases": [
                {
                    "name": phase.name,
                    "begin_seconds": round(phase.begin_seconds, 3),
                    "seconds": round(phase.seconds, 3),
                    "usd": self._usd(phase.seconds),
                }
                for phase in sorted(self.phases, key=lambda phase: phase.begin_seconds)
            ],
        }

    def _usd(self, seconds: float) -> str | None:
        if self.usd_per_second is None:
            return None
        return str((Decimal(round(seconds * 1000)) / 1000 * self.usd_per_second).quantize(NANO_USD))


def process_age_seconds() -> float:
    """Returns the seconds since the kernel started this process."""
    # proc(5): field 22 is the start in clock ticks since boot. The name in field 2 may hold spaces and brackets.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
