"""`simulate`: the cost and latency of a traffic trace under each policy, as a table, JSON or a plot."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from vllm_service.cli.argument_types import some_of
from vllm_service.cli.command import Command
from vllm_service.cli.trace_options import add_traffic, progress, traffic
from vllm_service.data import Kind, path_of
from vllm_service.errors import ConfigurationError
from vllm_service.simulation.compare import NAMES, compare
from vllm_service.simulation.plot import draw
from vllm_service.simulation.report import as_json, print_table
from vllm_service.simulation.scenario import load_scenario


def run(options: argparse.Namespace) -> int:
    """Replays the trace through the policies; returns 0. Raises ServiceError."""
    trace = traffic(options)
    scenario = load_scenario(path_of(Kind.SCENARIO, options.scenario))
    policies = options.policies
    if options.plot:
        _require_plot(options.plot)
    with progress(len(trace)) as report:
        results = compare(trace, scenario, options.seed, policies, report)
    title = f"{Path(options.trace).name} x {options.scale:g}, {scenario.name} ({scenario.dated}), {len(trace)} requests"
    if options.plot:
        draw(options.plot, trace, scenario, results, title)
    if options.json:
        sys.stdout.write(as_json(results) + "\n")
    else:
        print_table(results, title)
    return 0


def _require_plot(path: Path) -> None:
    """Raises what `draw` would raise, before the minutes of simulation instead of after them."""
    if not path.parent.is_dir():
        raise ConfigurationError(f"--plot {path}: there is no directory {path.parent}; make it, or name another.")
    importlib.import_module("matplotlib")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_traffic(parser)
    parser.add_argument(
        "--scenario",
        metavar="NAME|FILE",
        required=True,
        help="a shipped scenario (`examples list`), or a YAML file of your own",
    )
    parser.add_argument(
        "--policies",
        type=some_of(NAMES),
        default=",".join(NAMES),
        metavar="LIST",
        help=f"some of {', '.join(NAMES)} (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the run over time")


COMMAND = Command(
    "Replays a traffic trace through the gateway's router, and through simpler policies to compare it with.",
    _add_arguments,
    run,
)
