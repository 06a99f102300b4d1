"""The table of verbs, and one parser for all of them. A verb's module is imported when the verb is asked for."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection, Sequence

from vllm_service.cli.command import Command
from vllm_service.cli.exit_codes import DESCRIPTION
from vllm_service.version import __version__

PROGRAM = "vllm-service"
# verb -> (module:Command, what it does)
COMMANDS = {
    "advise": ("vllm_service.cli.simulate:ADVISE", "GPU, idle time-out and providers for your own traffic"),
    "check": ("vllm_service.cli.check:COMMAND", "is the configuration valid, and does every provider answer"),
    "compare": ("vllm_service.cli.compare:COMMAND", "what providers charge for your tokens in a month"),
    "completion": ("vllm_service.cli.completion:COMMAND", "a script that completes this program's arguments"),
    "examples": ("vllm_service.cli.examples:COMMAND", "example configuration, scenarios and traces to copy"),
    "explain": ("vllm_service.cli.explain:COMMAND", "where a described request would go, and why"),
    "keys": ("vllm_service.cli.keys:COMMAND", "callers' keys and the limits of their organisations"),
    "ledger": ("vllm_service.cli.ledger:COMMAND", "the record of every request: export, summary, prune"),
    "reconcile": ("vllm_service.cli.reconcile:COMMAND", "the ledger against RunPod's bill, day by day"),
    "serve": ("vllm_service.cli.serve:COMMAND", "the gateway"),
    "simulate": ("vllm_service.cli.simulate:SIMULATE", "what a traffic trace would have cost, by policy"),
}


def parser_of(verbs: Collection[str] = COMMANDS, program: str = PROGRAM) -> argparse.ArgumentParser:
    """Returns the parser. Every verb is listed; only those of `verbs` are imported and know their arguments.

    The namespace it makes has `run`, a function from that namespace to the exit code.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="The cost-aware gateway in front of your endpoint and hosted providers.",
        epilog=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(
        title="commands", dest="verb", metavar="COMMAND", required=True, help="COMMAND --help has more on each"
    )
    for name, (place, does) in COMMANDS.items():
        command = _command(place) if name in verbs else None
        # Help texts are formats for argparse; a description with a percent sign must stay one.
        description = None if command is None else command.description.replace("%", "%%")
        child = subparsers.add_parser(name, help=does, description=description)
        if command is not None:
            command.add_arguments(child)
            child.set_defaults(run=command.run)
    return parser


def parse(arguments: Sequence[str], program: str = PROGRAM) -> argparse.Namespace:
    """Returns the parsed arguments. SystemExit with 2 for wrong ones, with 0 after --help and --version."""
    asked = next((word for word in arguments if not word.startswith("-")), None)
    return parser_of([asked] if asked in COMMANDS else [], program).parse_args(arguments)


def _command(place: str) -> Command:
    module, _, attribute = place.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, Command)
    return command
