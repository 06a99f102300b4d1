"""Plays a compressed trace against a gateway process, real vLLM workers and hosted providers, and simulates the same.

    python -m benchmarks.compressed_trace [--minutes 10] [--trace NAME|FILE] [--json] [--directory FOLDER]

It takes four minutes more than the trace. It exits with 1 if a bar of docs/routing.md is missed: no request lost, the
ledger within 1 % of the bills of RunPod's REST v2 and the providers, within 3 % of the workers' before there is a bill,
and the simulated dollars within 10 % of the measured ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.compressed_trace.physics import Physics, measured
from benchmarks.compressed_trace.plot import draw
from benchmarks.compressed_trace.run import Run, compared, played
from benchmarks.compressed_trace.stage import ROOT
from benchmarks.compressed_trace.traffic import Cut, cut
from benchmarks.compressed_trace.verdict import print_table, to_json, verdict, write_requests
from benchmarks.settings import add_traces, traces_of
from vllm_service.simulation.trace import Trace, load_trace


async def run(trace: Trace, directory: Path) -> Run:
    """Measures the worker, then plays the trace, then simulates it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("calibration", total=len(trace))
        physics: Physics = await measured(
            lambda what: progress.update(task, description=what), directory / "calibration"
        )
        progress.update(task, description="requests answered")
        real = await played(trace, physics, directory, lambda: progress.advance(task))
        progress.update(task, description="simulating")
        return compared(trace, physics, real)


def main() -> int:
    """Runs, writes the files, and prints. Returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compressed_trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="the trace's length (default: %(default)s)")
    add_traces(parser)
    parser.add_argument(
        "--begin",
        type=float,
        default=Cut.begin_seconds,
        metavar="SECONDS",
        help="where in the trace to begin (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument(
        "--directory",
        type=Path,
        default=ROOT / "build" / "compressed_trace",
        metavar="FOLDER",
        help="where logs, ledger and plot go (default: build/compressed_trace)",
    )
    options = parser.parse_args()
    trace = cut(load_trace(traces_of(parser, options)[0]), options.minutes, Cut(begin_seconds=options.begin))
    directory = options.directory.absolute()
    if (directory / "data").exists():
        parser.error(f"{directory} contains the ledger of an earlier run: move it away, or give another --directory")
    directory.mkdir(parents=True, exist_ok=True)
    result = asyncio.run(run(trace, directory))
    draw(directory / "run.png", result)
    write_requests(directory / "requests.csv", result)
    if options.json:
        sys.stdout.write(json.dumps(to_json(result), indent=2) + "\n")
    else:
        print_table(result)
    return 0 if verdict(result).is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
