"""One run: calibration, the trace played for real, the bills, the ledger's own figures, and the simulation."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from benchmarks.compressed_trace.calls import Answer, Caller
from benchmarks.compressed_trace.physics import Physics
from benchmarks.compressed_trace.simulated import scenario_of, simulated
from benchmarks.compressed_trace.stage import (
    ENDPOINT_ID,
    HOSTED,
    OWN,
    PATIENCE_SECONDS,
    Endpoint,
    Hosted,
    command,
    configure,
    emulated,
    gateway,
    variables_of,
)
from vllm_service.domain.bill import COMPUTE
from vllm_service.runpod.billing import BillQuery, fetch_bill
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi
from vllm_service.simulation.replay import Outcome
from vllm_service.simulation.scenario import Scenario
from vllm_service.simulation.trace import Trace

BOOKING_LOOK_SECONDS = 3.0
#: By then the gateway has seen that a worker is gone.
SEEN_SECONDS = 5.0


@dataclass(frozen=True)
class Bills:
    """The bills of the platforms, in dollars."""

    #: What RunPod's REST API v2 bills for the own workers' seconds: GPUs and CPUs.
    own_usd: Decimal
    #: What it bills for their disks and as a fee, which no request is charged with.
    beside_usd: Decimal
    #: By provider.
    hosted_usd: dict[str, Decimal]
    #: Of the own workers.
    billed_seconds: int
    #: The start and stop of each worker, in seconds since the trace began.
    lifetimes: list[tuple[float, float]]

    @property
    def total_usd(self) -> Decimal:
        """Returns the sum of what requests are charged with."""
        return self.own_usd + sum(self.hosted_usd.values(), Decimal(0))


@dataclass(frozen=True)
class Ledger:
    """The costs in the gateway's ledger, in dollars."""

    #: After `reconcile --book` has attributed execution, cold starts and idle seconds to the requests that caused them.
    own_usd: Decimal
    #: What no request caused, a line of its own.
    nobody_usd: Decimal
    #: Both before that, as the gateway booked them by itself.
    before_bill_usd: Decimal
    #: By provider, as the gateway booked it at once.
    hosted_usd: dict[str, Decimal]
    #: The output of `reconcile --json` with the bill of the REST API v2, after booking.
    reconciled: dict[str, Any]
    #: How the bill was attributed, from the output of `reconcile --book --json`.
    attribution: dict[str, Any]

    @property
    def total_usd(self) -> Decimal:
        """Returns the sum over all providers, and what no request caused."""
        return self.own_usd + self.nobody_usd + sum(self.hosted_usd.values(), Decimal(0))


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
        # The trace is over, and nothing comes after it: what goes on to book keeps no worker, as in the simulation.
        async with gateway(directory, WAKE_ENDPOINTS="false") as url:
            await endpoint.until_no_worker()
            await _until_booked(url, time.time() + SEEN_SECONDS)
        bills = await _bills(endpoint, began_at)
        ledger = await _ledger(directory, endpoint, hosted)
    return Played(trace, began_at, answers, bills, ledger)


def compared(trace: Trace, physics: Physics, real: Played) -> Run:
    """Simulates the trace, and returns both sides."""
    scenario = scenario_of(physics.profile)
    return Run(physics, scenario, real, simulated(trace, scenario))


async def _until_booked(url: str, moment: float) -> None:
    """Waits until the gateway has booked the workers' seconds until then, as its /health says. Raises TimeoutError.

    url: with /v1. moment: seconds since 1970.
    """
    async with asyncio.timeout(PATIENCE_SECONDS), httpx.AsyncClient(trust_env=False) as client:
        lag_seconds = math.inf
        while time.time() - lag_seconds < moment:
            await asyncio.sleep(BOOKING_LOOK_SECONDS)  # nothing in this process tells of the other one
            document = (await client.get(f"{url.removesuffix('/v1')}/health")).json()
            lag_seconds = document["worker_spend"]["booked_lag_seconds"] or math.inf


async def _bills(endpoint: Endpoint, began_at: float) -> Bills:
    bill = endpoint.emulator.bill()
    meters = (worker.meter for worker in endpoint.emulator.workers.values())
    today = datetime.now(UTC).date()
    query = BillQuery(today - timedelta(days=1), today, ENDPOINT_ID)  # the trace may have begun before midnight
    async with open_send() as send:
        lines = (await fetch_bill(RestApi(endpoint.emulator.origin, None, send), query)).lines
    own_picousd = sum(line.parts[part] or 0 for line in lines for part in COMPUTE)
    return Bills(
        own_usd=Decimal(own_picousd) / 10**12,
        beside_usd=Decimal(sum(line.picousd for line in lines) - own_picousd) / 10**12,
        hosted_usd={name: provider.meter.total_usd for name, provider in endpoint.emulator.hosted.providers.items()},
        billed_seconds=bill.billed_seconds,
        lifetimes=[(meter.started_at - began_at, (meter.stopped_at or 0.0) - began_at) for meter in meters],
    )


async def _ledger(directory: Path, endpoint: Endpoint, hosted: Sequence[Hosted]) -> Ledger:
    """Reads the ledger with the same commands that a user has."""
    variables = variables_of(directory)

    async def reconciled(bill: str, *more: str) -> dict[str, Any]:
        arguments = ("--bill", bill, "--provider", OWN, "--json", *more)
        document: dict[str, Any] = json.loads(await command("reconcile", *arguments, variables=variables))
        return document

    async def exported() -> list[dict[str, str]]:
        text = await command("ledger", "export", "--format", "csv", variables=variables)
        return list(csv.DictReader(io.StringIO(text)))

    before = _booked(await exported(), OWN) + _booked_for_nobody(directory)
    # The bill of REST v2 has no times of workers, by which a bill is attributed; the emulator's own page has them.
    attribution = (await reconciled(f"{endpoint.emulator.url}/billing", "--book"))["attribution"] or {}
    rows = await exported()
    return Ledger(
        own_usd=_booked(rows, OWN),
        nobody_usd=Decimal(str(attribution.get("nobody_usd", 0))),
        before_bill_usd=before,
        hosted_usd={provider.name: _booked(rows, provider.name) for provider in hosted},
        reconciled=await reconciled(endpoint.emulator.origin, "--endpoint", ENDPOINT_ID),
        attribution=attribution,
    )


def _booked_for_nobody(directory: Path) -> Decimal:
    """Returns the dollars of the gateway's line for worker seconds that no request caused."""
    with closing(sqlite3.connect(directory / "data" / "service.sqlite3")) as database:
        query = "SELECT COALESCE(SUM(nobody_picousd), 0) FROM booked_days WHERE provider = ?"
        ((picousd,),) = database.execute(query, (OWN,)).fetchall()
    return Decimal(picousd) / 10**12


def _booked(rows: Sequence[dict[str, str]], provider: str) -> Decimal:
    picousd = (int(row["cost_picousd"]) for row in rows if row["provider"] == provider and row["cost_picousd"])
    return Decimal(sum(picousd)) / 10**12
