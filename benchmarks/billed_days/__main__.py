"""Plays five days of traffic on an emulated endpoint, and prints what the ledger has against RunPod's bill.

    python -m benchmarks.billed_days [--seed 1]

The bill is that of REST v2, by day and part, without times of workers. It takes two minutes. It exits with 1 if a bar
is missed: booked within 3 % of the bill before it comes, equal to the cent after, and each caller's part within 5 % of
what `reconcile --book` attributes by the true times of workers.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.billed_days.days import DAYS
from benchmarks.billed_days.played_day import PlayedDay, played
from vllm_service.domain.money import to_usd
from vllm_service.domain.spend import SpendPart

BOOKED_PERCENT = 3.0
CALLER_PERCENT = 5.0
CENT_PICOUSD = 10**10
COLUMNS = (
    "day",
    "requests, workers",
    "billed for workers",
    "booked before the bill",
    "off the bill after it",
    "cold start, execution, idle, no request",
    "the caller that is off most, by true times (by everything)",
)


def main() -> int:
    """Plays the days and prints a row for each. Returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the traffic and the cold starts (default: 1)")
    options = parser.parse_args()
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
    results = []
    for day in DAYS:
        with tempfile.TemporaryDirectory() as directory:
            results.append(asyncio.run(played(day, Path(directory), options.seed)))
        sys.stdout.write(row(results[-1]) + "\n")
        sys.stdout.flush()
    return int(not all(map(holds, results)))


def holds(result: PlayedDay) -> bool:
    """Returns whether the day is within all bars."""
    return (
        abs(result.booked_percent) < BOOKED_PERCENT
        and abs(result.off_picousd) < CENT_PICOUSD
        and abs(result.worst_caller_percent(result.by_true_times)) < CALLER_PERCENT
    )


def row(result: PlayedDay) -> str:
    """Returns the day's row of the table."""
    shares = result.billed.worker_shares()
    parts = (SpendPart.COLD_START, SpendPart.EXECUTION, SpendPart.IDLE, SpendPart.NO_REQUEST)
    worst, strict = (result.worst_caller_percent(true) for true in (result.by_true_times, result.by_everything))
    cells = (
        result.day.name,
        f"{result.requests:,}, {result.workers:,}",
        f"${to_usd(result.compute_picousd):.4f}",
        f"{result.booked_percent:+.2f} %",
        f"{result.off_picousd / CENT_PICOUSD:.4f} cents",
        ", ".join(f"{100 * shares.get(part, 0.0):.1f} %" for part in parts),
        f"{worst:+.2f} % ({strict:+.2f} %)",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
