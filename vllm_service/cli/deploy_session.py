"""What the verbs of `deploy` that reach RunPod share: which deployment, the connection, and output without secrets."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vllm_service.cli.deploy_options import DEFAULT_FILE
from vllm_service.deployment.concealer import Concealer
from vllm_service.deployment.existing import Existing, Names
from vllm_service.deployment.settings import DeploySettings
from vllm_service.deployment.spec import DeploymentSpec
from vllm_service.deployment.spec_file import read_spec
from vllm_service.errors import ConfigurationError, ServiceError
from vllm_service.runpod.command_http import CommandHttp, open_send
from vllm_service.runpod.rest_api import RestApi

#: Variables of this machine that are secrets whether a deployment names them or not.
_ALWAYS_SECRET = ("HF_TOKEN",)


@dataclass(frozen=True, slots=True)
class Session:
    """One command's account, and where it writes what is not its result."""

    settings: DeploySettings
    concealer: Concealer
    #: Standard error: progress and notes.
    progress: Console

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[RestApi, CommandHttp]]:
        """Opens the connections of the command."""
        async with open_send() as send:
            yield RestApi(self.settings.origin, self.settings.api_key, send), send

    def learn(self, existing: Existing) -> None:
        """Takes secrets that RunPod's documents hold among what is never shown."""
        for document in (*existing.endpoints, *existing.templates):
            self.concealer.learn(document.get("env"))

    def say(self, text: str) -> None:
        """Writes a line to standard error, without secrets and without what a terminal would obey."""
        lines = [self.concealer.line(line) for line in text.splitlines()]
        self.progress.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def open_session(settings: DeploySettings, spec: DeploymentSpec | None, progress: Console | None = None) -> Session:
    """Returns the session of one command. spec: whose secrets are concealed, where one was read."""
    named = () if spec is None else spec.secrets
    variables = [*_ALWAYS_SECRET, *(secret.local_variable for secret in named)]
    values = [settings.api_key, *(settings.environment.get(variable, "").strip() for variable in variables)]
    return Session(settings, Concealer(values), progress or Console(stderr=True))


def write_lines(session: Session, lines: Iterable[str]) -> None:
    """Writes a result to standard output, without secrets and without what a terminal would obey."""
    sys.stdout.writelines(f"{session.concealer.line(line)}\n" for line in lines)


def run_concealed(session: Session, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Runs the command's work; returns its exit code. Raises ServiceError without secrets in its message."""
    try:
        return asyncio.run(work())
    except ServiceError as error:
        raise ConfigurationError(session.concealer.text(error.message)) from None


def add_name_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what names a deployment that exists."""
    parser.add_argument("--name", metavar="NAME", help="the deployment's name (default: the name in the file)")
    parser.add_argument(
        "--file", type=Path, metavar="FILE", help=f"its specification (default: {DEFAULT_FILE}, where it is there)"
    )
    parser.add_argument(
        "--network-volume", metavar="NAME", help="its volume's name (default: the file's, else the deployment's)"
    )
    parser.add_argument(
        "--data-center", metavar="ID", help="where its volume is (default: the file's; needed for one of several)"
    )


def spec_named(options: argparse.Namespace) -> DeploymentSpec | None:
    """Returns the specification of the file; None where there is no file. Raises ConfigurationError."""
    file = options.file
    if file is None and DEFAULT_FILE.is_file() and options.name is None:
        file = DEFAULT_FILE
    return None if file is None else read_spec(file, {} if options.name is None else {"name": options.name})


def names_of(options: argparse.Namespace, spec: DeploymentSpec | None) -> Names:
    """Returns the names by which the deployment is found. Raises ConfigurationError where none is given."""
    name = spec.name if spec is not None else (options.name or "").strip()
    if not name:
        raise ConfigurationError(
            f"which deployment? Name it with --name, or its specification with --file ({DEFAULT_FILE} is not here)",
            param="name",
        )
    of_file = spec.volume.name if spec is not None and spec.volume is not None else None
    data_center = options.data_center or (None if spec is None else spec.data_center)
    return Names(name, options.network_volume or of_file or name, data_center)
