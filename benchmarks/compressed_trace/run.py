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
    """The bills of the platforms, in dollars."""

    own_usd: Decimal
    #: By provider.
    hosted_usd: dict[str, Decimal]
    #: Of the own workers.
    billed_seconds: int
    #: The start and stop of each worker, in seconds since the trace began.
    lifetimes: list[tuple[float, float]]

    @property
    def total_usd(self) -> Decimal:
        """Returns the sum of all bills."""
        return self.own_usd + sum(self.hosted_usd.values(), Decimal(0))


@dataclass(frozen=True)
class Ledger:
    """The costs in the gateway's ledger, in dollars."""

    #: After `reconcile --book` has attributed execution, cold starts and idle seconds to the requests that caused them.
    own_usd: Decimal
    #: Before that.
    expected_usd: float
    #: By provider, as the gateway booked it at once.
    hosted_usd: dict[str, Decimal]
    #: The output of `reconcile --book --json`.
    reconciled: dict[str, Any]

    @property
    def unattributed_usd(self) -> float:
        """Returns the part of the bill that no request caused."""
        return float((self.reconciled["attribution"] or {}).get("nobody_usd", 0.0))

    @property
    def total_usd(self) -> Decimal:
        """Returns the sum over all providers."""
        return self.own_usd + sum(self.hosted_usd.values(), Decimal(0))


@dataclass(frozen=True)
class Played:
    """The measured side."""

    trace: Trace
    #: time.monotonic when the trace began.
    began_at: float
    answers: list[Answer]
    bills: Bills
    ledger: Ledger


@dataclass(frozen=True)
class Run:
    """Both sides: played and simulated."""

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
    """Plays the trace. Configuration, logs and ledger are in `directory` afterwards.

    until_own_answers: sends further requests after the trace until an own worker has answered one.
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
    """Simulates the trace, and returns both sides."""
    scenario = scenario_of(physics.profile)
    return Run(physics, scenario, real, simulated(trace, scenario))


def _bills(endpoint: Endpoint, began_at: float) -> Bills:
    bill = endpoint.emulator.bill()
    meters = (worker.meter for worker in endpoint.emulator.workers.values())
    return Bills(
        own_usd=bill.total_usd,
        hosted_usd={name: provider.meter.total_usd for name, provider in endpoint.emulator.hosted.providers.items()},
        billed_seconds=bill.billed_seconds,
        lifetimes=[(meter.started_at - began_at, (meter.stopped_at or 0.0) - began_at) for meter in meters],
    )


async def _ledger(directory: Path, endpoint: Endpoint, hosted: Sequence[Hosted]) -> Ledger:
    """Reads the ledger with the same commands that a user has."""
    variables = variables_of(directory)

    async def reconciled(*more: str) -> dict[str, Any]:
        bill = ("--bill", f"{endpoint.emulator.url}/billing", "--provider", OWN, "--json", *more)
        document: dict[str, Any] = json.loads(await command("reconcile", *bill, variables=variables))
        return document

    before = await reconciled()
    after = await reconciled("--book")
    rows = list(csv.DictReader(io.StringIO(await command("ledger", "export", "--format", "csv", variables=variables))))
    return Ledger(
        own_usd=_booked(rows, OWN),
        expected_usd=float(before["total"]["booked_usd"] or 0.0),
        hosted_usd={provider.name: _booked(rows, provider.name) for provider in hosted},
        reconciled=after,
    )


def _booked(rows: Sequence[dict[str, str]], provider: str) -> Decimal:
    picousd = (int(row["cost_picousd"]) for row in rows if row["provider"] == provider and row["cost_picousd"])
    return Decimal(sum(picousd)) / 10**12
