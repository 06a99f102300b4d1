"""`python -m vllm_service COMMAND`: a command is a module with `run(arguments) -> exit code`, imported when asked."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from vllm_service import __version__
from vllm_service.errors import ConfigurationError

COMMANDS = {
    "check": "vllm_service.commands.check",
    "compare": "vllm_service.commands.compare",
    "keys": "vllm_service.commands.keys",
    "ledger": "vllm_service.commands.ledger",
    "reconcile": "vllm_service.commands.reconcile",
    "serve": "vllm_service.commands.serve",
}

# name -> (module, function, what it does)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "advise": ("vllm_service.simulation.commands", "advise", "GPU, idle time-out and providers for your own traffic"),
    "explain": ("vllm_service.simulation.commands", "explain", "where a described request would go, and why"),
    "simulate": ("vllm_service.simulation.commands", "simulate", "what a traffic trace would have cost, by policy"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 2 for arguments that are wrong, 1 for a configuration that is."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_service",
        description="The cost-aware gateway in front of your endpoint and hosted providers.",
        epilog="`python -m vllm_service COMMAND --help` tells more of each.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=sorted(COMMANDS), metavar="COMMAND", help=", ".join(sorted(COMMANDS)))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own")
    options = parser.parse_args(arguments)
    try:
        code: int = importlib.import_module(COMMANDS[options.command]).run(options.arguments)
    except ConfigurationError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
