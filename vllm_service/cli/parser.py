"""The table of verbs, and one parser for all of them. A verb's module is imported only to run that verb."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection, Sequence

from vllm_service.cli.command import Command
from vllm_service.cli.exit_codes import DESCRIPTION
from vllm_service.version import __version__

PROGRAM = "vllm-service"
#: What each verb does, for `--help`. Its module in this folder has its name.
COMMANDS = {
    "advise": "find the cheapest GPU, idle timeout and providers for your traffic",
    "check": "check the configuration, and whether every provider answers",
    "compare": "compare what providers charge for a month of tokens",
    "completion": "print a script for the shell's completion",
    "deploy": "bring a model to RunPod: plan, apply, status, logs, destroy",
    "examples": "list, show and copy example configuration, scenarios and traces",
    "explain": "show where a request would go, and why",
    "keys": "make and revoke callers' keys, set their organisations' limits",
    "ledger": "export, sum up or prune the record of every request",
    "reconcile": "compare the ledger with RunPod's bill, day by day",
    "serve": "run the gateway",
    "simulate": "compute what a traffic trace would have cost, by policy",
}


def parser_of(verbs: Collection[str] = COMMANDS, program: str = PROGRAM) -> argparse.ArgumentParser:
    """Returns the parser. It lists every verb, but imports only those of `verbs`: the others have no arguments.

    The parsed namespace has `run`, a function from that namespace to the exit code.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="The cost-aware gateway in front of your endpoint and hosted providers.",
        epilog=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(
        title="commands", dest="verb", metavar="COMMAND", required=True, help="COMMAND --help describes each"
    )
    for name, summary in COMMANDS.items():
        command = _command(name) if name in verbs else None
        # argparse formats help texts: a percent sign of a description has to be doubled.
        description = None if command is None else command.description.replace("%", "%%")
        child = subparsers.add_parser(name, help=summary, description=description)
        if command is not None:
            command.add_arguments(child)
            child.set_defaults(run=command.run)
    return parser


def parse(arguments: Sequence[str], program: str = PROGRAM) -> argparse.Namespace:
    """Returns the parsed arguments. Raises SystemExit with 2 for wrong ones, and with 0 after --help and --version."""
    verb = next((word for word in arguments if not word.startswith("-")), None)
    return parser_of([verb] if verb in COMMANDS else [], program).parse_args(arguments)


def _command(verb: str) -> Command:
    command = importlib.import_module(f"vllm_service.cli.{verb}").COMMAND
    assert isinstance(command, Command)
    return command
