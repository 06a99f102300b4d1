"""`deploy logs`: the log lines of an endpoint's workers, as they are written."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console

from vllm_service.cli.argument_types import one_of, whole_number
from vllm_service.cli.deploy_progress import shown
from vllm_service.cli.deploy_session import (
    Session,
    add_name_arguments,
    names_of,
    open_session,
    run_concealed,
    spec_named,
)
from vllm_service.cli.json_option import add_json, write_json
from vllm_service.deployment.existing import Json, Names, find_existing, id_of
from vllm_service.deployment.holdings import list_workers
from vllm_service.deployment.settings import DeploySettings
from vllm_service.deployment.worker_logs import DEFAULT_TAIL, LogLine, WorkerLog
from vllm_service.errors import ConfigurationError, ServiceError, UpstreamFailed
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

SUMMARY = "show the workers' logs, and follow them"
DESCRIPTION = (
    "Shows the last lines of the logs of an endpoint's workers, or of one; --follow goes on until Ctrl-C, also with "
    "workers that start later. The values of secrets are taken out. With --json and --follow each line is a document."
)
#: How often --follow looks for workers that started, and how many it reads at once.
LOOK_SECONDS = 5.0
MOST_WORKERS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the action."""
    add_name_arguments(parser)
    add_json(parser)
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new lines")
    parser.add_argument("--worker", metavar="ID", help="only this worker (default: all)")
    parser.add_argument(
        "--tail", type=whole_number, default=DEFAULT_TAIL, metavar="LINES", help="of each log (default: %(default)s)"
    )
    parser.add_argument("--source", type=one_of(("container", "system")), help="only this source (default: both)")


def run(
    options: argparse.Namespace, environment: Mapping[str, str] | None = None, progress: Console | None = None
) -> int:
    """Returns 0. Raises ServiceError. environment: this process's by default."""
    settings = DeploySettings.from_environment(environment)
    spec = spec_named(options)
    session = open_session(settings, spec, progress)
    names = names_of(options, spec)
    try:
        return run_concealed(session, lambda: _logs(session, names, options))
    except KeyboardInterrupt:  # how --follow ends
        return 0


async def _logs(session: Session, names: Names, options: argparse.Namespace) -> int:
    async with session.connected() as (api, _):
        existing = await find_existing(api, names)
        session.learn(existing)
        if existing.endpoint is None:
            raise ConfigurationError(f"RunPod has no endpoint of the deployment {names.deployment!r}", param="name")
        reader = _Reader(session, api, existing.endpoint, options)
        await (reader.follow() if options.follow else reader.read())
    return 0


class _Reader:
    """Reads the logs of one endpoint."""

    def __init__(self, session: Session, api: RestApi, endpoint: Json, options: argparse.Namespace) -> None:
        self._session = session
        self._api = api
        self._endpoint = endpoint
        self._options = options

    async def read(self) -> None:
        """Writes what is in the logs now, worker by worker."""
        lines: list[LogLine] = []
        for worker_id in await self._workers():
            async for line in self._log(worker_id).written():
                if self._options.json:
                    lines.append(line)
                else:
                    self._write(line)
        if self._options.json:
            write_json(self._session.concealer.document({"lines": [_json(line) for line in lines]}))

    async def follow(self) -> None:
        """Writes lines as they come, until it is cancelled, or the one worker that is named is gone."""
        if self._options.worker is not None:
            async for line in self._log(self._options.worker).follow():
                self._write(line)
            return
        tasks: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                listed = await self._listed_or(list(tasks))
                # One that cannot be read is said once, and not tried again as long as it is listed.
                tasks = {name: task for name, task in tasks.items() if name in listed or not task.done()}
                for worker_id in listed:
                    if worker_id not in tasks and sum(not task.done() for task in tasks.values()) < MOST_WORKERS:
                        tasks[worker_id] = asyncio.create_task(self._follow(worker_id))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _listed_or(self, former: list[str]) -> list[str]:
        """Returns the workers; the former ones where a fault that passes, which is said, hides them for now."""
        try:
            return await self._workers()
        except RestError as error:
            if not error.is_transient:
                raise
            self._session.say(error.message)
            return former

    async def _follow(self, worker_id: str) -> None:
        try:
            async for line in self._log(worker_id).follow():
                self._write(line)
        except ServiceError as error:
            self._session.say(error.message)

    async def _workers(self) -> list[str]:
        if self._options.worker is not None:
            return [self._options.worker]
        listed = await list_workers(self._api, self._endpoint)
        if listed is None:
            raise UpstreamFailed(
                f"RunPod's answer lists no workers of {id_of(self._endpoint)}: check the address of RunPod's API, or "
                "name one with --worker"
            )
        return [worker.id for worker in listed.workers]

    def _log(self, worker_id: str) -> WorkerLog:
        return WorkerLog(
            self._api,
            id_of(self._endpoint),
            worker_id,
            tail=self._options.tail,
            source=self._options.source,
        )

    def _write(self, line: LogLine) -> None:
        if self._options.json:
            text = json.dumps(self._session.concealer.document(_json(line)), ensure_ascii=False)
        else:
            text = self._session.concealer.line(shown(line))
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _json(line: LogLine) -> dict[str, Any]:
    return asdict(line)
