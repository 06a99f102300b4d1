"""`simulate` and `advise`: arguments in, text or JSON on stdout, progress and errors on stderr."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vllm_service.cli.command import Command
from vllm_service.data import Kind, path_of
from vllm_service.errors import ConfigurationError, ServiceError
from vllm_service.simulation import advice
from vllm_service.simulation.compare import NAMES, compare
from vllm_service.simulation.plot import draw
from vllm_service.simulation.report import as_json, print_table
from vllm_service.simulation.scenario import load_scenario
from vllm_service.simulation.trace import Trace, load_trace


def simulate(options: argparse.Namespace) -> int:
    """Replays a trace through the policies."""
    return _guarded(lambda: _simulate(options))


def advise(options: argparse.Namespace) -> int:
    """Searches what to rent for a trace."""
    return _guarded(lambda: _advise(options))


def _add_to_simulate(parser: argparse.ArgumentParser) -> None:
    _add_traffic(parser)
    parser.add_argument("--scenario", metavar="NAME|FILE", required=True, help="a shipped one, or your own YAML")
    parser.add_argument("--policies", default=",".join(NAMES), help=f"of {', '.join(NAMES)} (all)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--plot", type=Path, help="also draw the run over time, FILE.png")


def _add_to_advise(parser: argparse.ArgumentParser) -> None:
    _add_traffic(parser)
    parser.add_argument(
        "--scenario", metavar="NAME|FILE", action="append", required=True, help="one per GPU; may be repeated"
    )
    parser.add_argument("--idle", default="5,30,120", help="idle time-outs to try, seconds (5,30,120)")
    parser.add_argument("--most", type=int, default=20_000, help="requests of the trace to use, from its middle")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _simulate(options: argparse.Namespace) -> int:
    trace, scenario = _traffic(options), load_scenario(path_of(Kind.SCENARIO, options.scenario))
    if options.plot:
        # Its absence is found out before the minutes of simulation, not after them.
        importlib.import_module("matplotlib")
    policies = [name.strip() for name in options.policies.split(",") if name.strip()]
    with _progress(len(trace)) as report:
        results = compare(trace, scenario, options.seed, policies, report)
    title = f"{Path(options.trace).name} x {options.scale:g}, {scenario.name} ({scenario.dated}), {len(trace)} requests"
    if options.plot:
        draw(options.plot, trace, scenario, results, title)
    if options.json:
        sys.stdout.write(as_json(results) + "\n")
    else:
        print_table(results, title)
    return 0


def _advise(options: argparse.Namespace) -> int:
    trace = advice.middle(_traffic(options), options.most)
    scenarios = [load_scenario(path_of(Kind.SCENARIO, name)) for name in options.scenario]
    idle_seconds = [float(text) for text in options.idle.split(",")]
    choices = advice.choices(scenarios, idle_seconds)
    with _progress(len(trace)) as report:
        found = [advice.cost_of(trace, choice, options.seed, report) for choice in choices]
    sys.stdout.write(advice.as_json(found) if options.json else advice.as_text(found))
    return 0


def _traffic(options: argparse.Namespace) -> Trace:
    if not options.scale > 0:
        raise ConfigurationError(f"--scale {options.scale}: the arrival rate is multiplied by it; give more than 0.")
    return load_trace(path_of(Kind.TRACE, options.trace)).scaled(options.scale)


def _add_traffic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace",
        metavar="NAME|FILE",
        required=True,
        help="a shipped one (bursty, diurnal), or CSV[.gz]: arrival_s, prompt_tokens, completion_tokens",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the arrival rate (1)")
    parser.add_argument("--seed", type=int, default=0, help="of cold starts, 429s and shares (0)")


def _guarded(run: Callable[[], int]) -> int:
    try:
        return run()
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, object] = {}

        def report(name: str, done: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)  # type: ignore[arg-type]  # rich's TaskID is an int of its own

        yield report


SIMULATE = Command("Replays a trace through the real router and what it is compared with.", _add_to_simulate, simulate)
ADVISE = Command(
    "Which GPU, idle time-out and providers would have been cheapest for your own trace.", _add_to_advise, advise
)
