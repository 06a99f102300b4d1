"""`serve`: runs the gateway. The environment and two files configure it, see docs/configure.md."""

from __future__ import annotations

import argparse

from vllm_service.cli.command import Command


def run(options: argparse.Namespace) -> int:
    """Serves until SIGTERM. The first line on stdout is the base URL."""
    # Imported here, because the server needs the service extra, and --help and completion have to work without it.
    from vllm_service.cli.serving import serve  # noqa: PLC0415

    return serve()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds none: the environment configures the gateway."""


COMMAND = Command(
    "Runs the gateway until SIGTERM. Environment variables, providers.yaml and models.yaml configure it: see "
    "docs/configure.md. The first line on standard output is the base URL.",
    _add_arguments,
    run,
)
