"""`advise`: the GPU, idle timeout and hosted providers that would have been cheapest for a traffic trace."""

from __future__ import annotations

import argparse
import sys

from vllm_service.cli.argument_types import count, positive
from vllm_service.cli.command import Command
from vllm_service.cli.trace_options import add_traffic, progress, traffic
from vllm_service.data import Kind, path_of
from vllm_service.simulation import advice
from vllm_service.simulation.scenario import load_scenario


def run(options: argparse.Namespace) -> int:
    """Simulates every choice and prints them, the best first; returns 0. Raises ServiceError."""
    trace = advice.middle(traffic(options), options.most)
    scenarios = [load_scenario(path_of(Kind.SCENARIO, name)) for name in options.scenario]
    choices = advice.choices(scenarios, options.idle)
    with progress(len(trace)) as report:
        found = [advice.cost_of(trace, choice, options.seed, report) for choice in choices]
    sys.stdout.write(advice.as_json(found) if options.json else advice.as_text(found))
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_traffic(parser)
    parser.add_argument(
        "--scenario",
        metavar="NAME|FILE",
        action="append",
        required=True,
        help="one for each GPU: a shipped scenario (`examples list`), or a YAML file of your own; may be repeated",
    )
    parser.add_argument(
        "--idle",
        type=_idle_seconds,
        default="5,30,120",
        metavar="LIST",
        help="idle timeouts to try, in seconds (default: 5,30,120)",
    )
    parser.add_argument(
        "--most",
        type=count,
        default=20_000,
        metavar="N",
        help="use at most so many requests, from the trace's middle (default: 20000)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def _idle_seconds(text: str) -> list[float]:
    return [positive(part) for part in text.split(",")]


COMMAND = Command(
    "Finds the GPU, idle timeout and hosted providers that would have been cheapest for your own traffic trace.",
    _add_arguments,
    run,
)
