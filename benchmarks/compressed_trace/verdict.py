"""The figures of a run, side by side, and whether they are within the bars of docs/routing.md."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.compressed_trace.calls import Answer
from benchmarks.compressed_trace.run import Played, Run
from benchmarks.compressed_trace.stage import OWN
from vllm_service.routing.profiles import LatencyTarget

SIMULATION_PERCENT = 10.0
LEDGER_PERCENT = 1.0
#: Of the own workers' bill, by the gateway alone.
BEFORE_BILL_PERCENT = 3.0
_SIMULATED = ("simulated_hosted_usd", "simulated_first_s", "simulated_end_s")


@dataclass(frozen=True)
class Side:
    """The figures of one side."""

    usd: float
    own_usd: float
    hosted_usd: float
    starts: int
    worker_seconds: int
    within_target_pct: float
    own_share_pct: float


@dataclass(frozen=True)
class Verdict:
    """Both sides, and their differences."""

    measured: Side
    simulated: Side
    sent: int
    answered: int
    #: How much more the simulation and the ledger have than the bills, in percent of the bills.
    simulation_percent: float
    ledger_percent: float
    #: The same of what the gateway booked for its own workers before it had a bill; None: they cost nothing.
    before_bill_percent: float | None

    @property
    def lost(self) -> int:
        """Returns the number of requests without a whole answer."""
        return self.sent - self.answered

    @property
    def is_kept(self) -> bool:
        """Returns whether every bar is kept."""
        return (
            self.lost == 0
            and abs(self.simulation_percent) <= SIMULATION_PERCENT
            and abs(self.ledger_percent) <= LEDGER_PERCENT
            and abs(self.before_bill_percent or 0.0) <= BEFORE_BILL_PERCENT
        )


def verdict(run: Run) -> Verdict:
    """Returns the verdict on a run."""
    real = run.played
    outcome = run.outcome
    billed = float(real.bills.total_usd)
    return Verdict(
        measured=_measured(real, run.scenario.target),
        simulated=Side(
            usd=outcome.usd,
            own_usd=outcome.own_usd,
            hosted_usd=outcome.hosted_usd,
            starts=outcome.starts,
            worker_seconds=outcome.billed_seconds,
            within_target_pct=outcome.within_target_pct,
            own_share_pct=100.0 * float(np.mean(outcome.usd_by_request == 0.0)),
        ),
        sent=len(real.answers),
        answered=sum(answer.error is None for answer in real.answers),
        simulation_percent=100.0 * (outcome.usd / billed - 1.0),
        ledger_percent=ledger_percent(real),
        before_bill_percent=before_bill_percent(real),
    )


def ledger_percent(real: Played) -> float:
    """Returns how much more the ledger has than the bills, in percent of the bills."""
    return 100.0 * float(real.ledger.total_usd / real.bills.total_usd - 1)


def before_bill_percent(real: Played) -> float | None:
    """Returns how much more the gateway booked at its own workers by itself, in percent of their bill."""
    billed = real.bills.own_usd
    return 100.0 * float(real.ledger.before_bill_usd / billed - 1) if billed else None


def _measured(real: Played, target: LatencyTarget) -> Side:
    bills = real.bills
    return Side(
        usd=float(bills.total_usd),
        own_usd=float(bills.own_usd),
        hosted_usd=float(sum(bills.hosted_usd.values())),
        starts=len(bills.lifetimes),
        worker_seconds=bills.billed_seconds,
        within_target_pct=100.0 * float(np.mean([is_in_time(answer, target) for answer in real.answers])),
        own_share_pct=100.0 * float(np.mean([answer.provider == OWN for answer in real.answers])),
    )


def is_in_time(answer: Answer, target: LatencyTarget) -> bool:
    """Returns whether the first token and the end came within the target, by the simulator's rule."""
    if answer.error is not None:
        return False
    allowed = target.first_token_seconds(answer.prompt_tokens)
    end = allowed + target.seconds_per_output_token * answer.completion_tokens
    return answer.first_token_at - answer.sent_at <= allowed and answer.ended_at - answer.sent_at <= end


def to_json(run: Run) -> dict[str, Any]:
    """Returns all figures of a run."""
    found = verdict(run)
    ledger = run.played.ledger
    return {
        "measured": asdict(found.measured),
        "simulated": asdict(found.simulated),
        "simulation_difference_percent": round(found.simulation_percent, 3),
        "requests": {"sent": found.sent, "answered": found.answered, "lost": found.lost},
        "errors": sorted({answer.error for answer in run.played.answers if answer.error}),
        "ledger": {
            "usd": float(ledger.total_usd),
            "own_usd": float(ledger.own_usd),
            "hosted_usd": {name: float(usd) for name, usd in ledger.hosted_usd.items()},
            "nobody_usd": float(ledger.nobody_usd),
            "own_usd_before_the_bill": float(ledger.before_bill_usd),
            "own_difference_percent_before_the_bill": found.before_bill_percent,
            "difference_percent": round(found.ledger_percent, 6),
            "reconcile": {"total": ledger.reconciled["total"], "attribution": ledger.attribution},
        },
        "physics": run.physics.to_json(),
        "worker_lives_seconds": {
            "measured": [[round(begun, 1), round(ended, 1)] for begun, ended in run.played.bills.lifetimes],
            "simulated": [[round(begun, 1), round(ended, 1)] for begun, ended in run.outcome.lifetimes],
        },
        "bars_kept": found.is_kept,
    }


def write_requests(path: Path, run: Run) -> None:
    """Writes a CSV of both sides with a row per request: its provider, and the seconds to its first token and end."""
    outcome = run.outcome
    answers = run.played.answers
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("arrival_s", "prompt_tokens", "completion_tokens", "provider", "first_s", "end_s", *_SIMULATED))
        for number, arrival in enumerate(run.played.trace.arrival_seconds):
            answer = answers[number]
            rows.writerow(
                (
                    f"{arrival:.3f}",
                    answer.prompt_tokens,
                    answer.completion_tokens,
                    answer.error or answer.provider,
                    f"{answer.first_token_at - answer.sent_at:.3f}",
                    f"{answer.ended_at - answer.sent_at:.3f}",
                    f"{outcome.usd_by_request[number]:.9f}",
                    f"{outcome.first_token_seconds[number]:.3f}",
                    f"{outcome.end_seconds[number]:.3f}",
                )
            )


def print_table(run: Run) -> None:
    """Prints the verdict."""
    found = verdict(run)
    ledger = run.played.ledger
    table = Table("", "measured", "simulated", title="A compressed trace, played and simulated")
    for name in Side.__dataclass_fields__:
        values = (getattr(side, name) for side in (found.measured, found.simulated))
        table.add_row(name, *(f"{value:.5g}" if isinstance(value, float) else str(value) for value in values))
    console = Console()
    console.print(table)
    console.print(
        f"simulated dollars {found.simulation_percent:+.2f} % (bar {SIMULATION_PERCENT:g} %)",
        f"ledger {found.ledger_percent:+.4f} % of the bills (bar {LEDGER_PERCENT:g} %), "
        f"no request caused ${ledger.nobody_usd:.6f}; before the bill ${ledger.before_bill_usd:.6f}, "
        f"{found.before_bill_percent or 0.0:+.2f} % from the workers' bill (bar {BEFORE_BILL_PERCENT:g} %); "
        f"disks and fee ${run.played.bills.beside_usd:.6f}",
        f"requests: {found.sent} sent, {found.answered} answered, {found.lost} lost (bar 0)",
        f"physics: {run.physics.to_json()}",
        sep="\n",
        highlight=False,
    )
