"""The arguments by which `simulate` and `advise` find their traffic, and the progress bar of both."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vllm_service.data import Kind, path_of
from vllm_service.errors import ConfigurationError
from vllm_service.simulation.trace import Trace, load_trace


def add_traffic(parser: argparse.ArgumentParser) -> None:
    """Adds the trace, its scale and the seed."""
    parser.add_argument(
        "--trace",
        metavar="NAME|FILE",
        required=True,
        help="a shipped trace (bursty, diurnal), or a CSV[.gz] with arrival_s, prompt_tokens, completion_tokens",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the arrival rate by this (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random cold starts, 429s and shares (default: 0)"
    )


def traffic(options: argparse.Namespace) -> Trace:
    """Returns the trace, scaled. Raises ConfigurationError."""
    if not options.scale > 0:
        raise ConfigurationError(f"--scale {options.scale}: the arrival rate is multiplied by it; give more than 0.")
    return load_trace(path_of(Kind.TRACE, options.trace)).scaled(options.scale)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Shows bars on stderr: yields a function that takes a bar's name and how many of `total` are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, object] = {}

        def report(name: str, done: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)  # type: ignore[arg-type]  # rich's TaskID is an int of its own

        yield report
