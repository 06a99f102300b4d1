"""`serve`: the gateway. Configured by the environment and two files, see docs/configure.md."""

from __future__ import annotations

import argparse

from vllm_service.cli.command import Command


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM; the first line on stdout is the base URL."""
    # The server needs the service extra; who only asks for help, or completes a command line, may be without.
    from vllm_service.cli.serving import serve  # noqa: PLC0415

    return serve()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """The environment configures the gateway: there are none."""


COMMAND = Command(
    "The gateway, until SIGTERM. Configured by the environment and two files, see docs/configure.md.",
    _add_arguments,
    run,
)
