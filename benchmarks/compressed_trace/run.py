"""One run: calibration, the trace played for real, the bills, the ledger's own figures, and the simulation."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.compressed_trace.calls import Answer, Caller
from benchmarks.compressed_trace.physics import Physics
from benchmarks.compressed_trace.simulated import scenario_of, simulated
from benchmarks.compressed_trace.stage import (
    HOSTED,
    OWN,
    Endpoint,
    Hosted,
    command,
    configure,
    emulated,
    gateway,
    variables_of,
)
from vllm_service.simulation.replay import Outcome
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace


@dataclass(frozen=True)
class Bills:
    """What the platforms want, in dollars; lives: of workers, seconds since the trace began."""

    own_usd: Decimal
    hosted_usd: dict[str, Decimal]
    billed_seconds: int
    lives: list[tuple[float, float]]

    @property
    def total_usd(self) -> Decimal:
        """Of all of them."""
        return self.own_usd + sum(self.hosted_usd.values(), Decimal(0))


@dataclass(frozen=True)
class Ledger:
    """What the gateway's rows say, in dollars.

    own_usd: once `reconcile --book` has put execution, cold starts and idle seconds to the requests that caused them;
    expected_usd: before that. hosted_usd: as the gateway wrote it at once. reconciled: the command's words afterwards.
    """

    own_usd: Decimal
    expected_usd: float
    hosted_usd: dict[str, Decimal]
    reconciled: dict[str, Any]

    @property
    def nobody_usd(self) -> float:
        """Of the bill, what no request caused."""
        return float((self.reconciled["attribution"] or {}).get("nobody_usd", 0.0))

    @property
    def total_usd(self) -> Decimal:
        """Of all places."""
        return self.own_usd + sum(self.hosted_usd.values(), Decimal(0))


@dataclass(frozen=True)
class Played:
    """What really happened. began_at: time.monotonic when the trace began."""

    trace: Trace
    began_at: float
    answers: list[Answer]
    bills: Bills
    ledger: Ledger


@dataclass(frozen=True)
class Run:
    """Both sides."""

    physics: Physics
    scenario: Scenario
    played: Played
    outcome: Outcome


async def played(
    trace: Trace,
    physics: Physics,
    directory: Path,
    ended: Callable[[], object] = lambda: None,
    hosted: Sequence[Hosted] = HOSTED,
    *,
    until_own_answers: bool = False,
) -> Played:
    """Everything lies in `directory` afterwards: configuration, logs, ledger.

    until_own_answers: goes on asking after the trace until an own worker has answered.
    """
    async with emulated(hosted, directory / "workers") as endpoint:
        configure(directory, endpoint.emulator, physics.profile, hosted)
        async with gateway(directory) as url:
            caller = Caller(url)
            began_at = time.monotonic()
            answers = await caller.play(trace, ended)
            while until_own_answers and not any(answer.provider == OWN for answer in answers):
                answers.append(await caller.ask(200, 16))
            await caller.close()
        await endpoint.until_no_worker()
        bills = _bills(endpoint, began_at)
        ledger = await _ledger(directory, endpoint, hosted)
    return Played(trace, began_at, answers, bills, ledger)


def compared(trace: Trace, physics: Physics, real: Played) -> Run:
    """With the simulator's side."""
    scenario = scenario_of(physics.profile)
    return Run(physics, scenario, real, simulated(trace, scenario))


def _bills(endpoint: Endpoint, began_at: float) -> Bills:
    bill = endpoint.emulator.bill()
    meters = (worker.meter for worker in endpoint.emulator.workers.values())
    return Bills(
        own_usd=bill.total_usd,
        hosted_usd={name: provider.meter.total_usd for name, provider in endpoint.emulator.hosted.providers.items()},
        billed_seconds=bill.billed_seconds,
        lives=[(meter.started_at - began_at, (meter.stopped_at or 0.0) - began_at) for meter in meters],
    )


async def _ledger(directory: Path, endpoint: Endpoint, hosted: Sequence[Hosted]) -> Ledger:
    """By the commands that a user has."""
    variables = variables_of(directory)

    async def reconciled(*more: str) -> dict[str, Any]:
        bill = ("--bill", f"{endpoint.emulator.url}/billing", "--provider", OWN, "--json", *more)
        document: dict[str, Any] = json.loads(await command("reconcile", *bill, variables=variables))
        return document

    before, after = await reconciled(), await reconciled("--book")
    rows = list(csv.DictReader(io.StringIO(await command("ledger", "export", "--format", "csv", variables=variables))))
    return Ledger(
        own_usd=_booked(rows, OWN),
        expected_usd=float(before["total"]["booked_usd"] or 0.0),
        hosted_usd={place.name: _booked(rows, place.name) for place in hosted},
        reconciled=after,
    )


def _booked(rows: Sequence[dict[str, str]], provider: str) -> Decimal:
    picousd = (int(row["cost_picousd"]) for row in rows if row["provider"] == provider and row["cost_picousd"])
    return Decimal(sum(picousd)) / 10**12
