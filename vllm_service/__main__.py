"""`python -m vllm_service COMMAND`: a small dispatcher; each command's module is imported when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from vllm_service import __version__

# name -> (module, function, what it does)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "advise": ("vllm_service.simulation.commands", "advise", "GPU, idle time-out and providers for your own traffic"),
    "explain": ("vllm_service.simulation.commands", "explain", "where a described request would go, and why"),
    "simulate": ("vllm_service.simulation.commands", "simulate", "what a traffic trace would have cost, by policy"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command with the rest of the arguments; its exit code. 2 for a command that is not there."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    if arguments[0] not in COMMANDS:
        sys.stderr.write(f"There is no command {arguments[0]!r}.\n\n{_usage()}")
        return 2
    module, function, _ = COMMANDS[arguments[0]]
    code: int = getattr(importlib.import_module(module), function)(arguments[1:])
    return code


def _usage() -> str:
    lines = [f"  {name:10}  {text}" for name, (_, _, text) in sorted(COMMANDS.items())]
    return "usage: python -m vllm_service COMMAND [--help]\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
