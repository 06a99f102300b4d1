"""`python -m vllm_service COMMAND`: a command is a function `(arguments) -> exit code`, imported when asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from vllm_service import __version__
from vllm_service.errors import ConfigurationError

# name -> (module:function, what it does)
COMMANDS = {
    "advise": ("vllm_service.simulation.commands:advise", "GPU, idle time-out and providers for your own traffic"),
    "check": ("vllm_service.commands.check:run", "validates the configuration, asks who is there"),
    "compare": ("vllm_service.commands.compare:run", "what providers charge for your tokens in a month"),
    "explain": ("vllm_service.commands.explain:run", "where a described request would go, and why"),
    "keys": ("vllm_service.commands.keys:run", "callers' keys and the limits of their organisations"),
    "ledger": ("vllm_service.commands.ledger:run", "the record of every request: export, summary, prune"),
    "reconcile": ("vllm_service.commands.reconcile:run", "the ledger against RunPod's bill, day by day"),
    "serve": ("vllm_service.commands.serve:run", "the gateway"),
    "simulate": ("vllm_service.simulation.commands:simulate", "what a traffic trace would have cost, by policy"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 2 for arguments that are wrong, 1 for a configuration that is."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_service",
        description="The cost-aware gateway in front of your endpoint and hosted providers.",
        epilog="\n".join(["commands:", *(f"  {name:10} {does}" for name, (_, does) in COMMANDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="below; COMMAND --help tells more of each")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own")
    options = parser.parse_args(arguments)
    module, _, function = COMMANDS[options.command][0].partition(":")
    try:
        code: int = getattr(importlib.import_module(module), function)(options.arguments)
    except ConfigurationError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return code


if __name__ == "__main__":
    sys.exit(main())
