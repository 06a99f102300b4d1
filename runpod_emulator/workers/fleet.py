"""Real worker processes: started when jobs need them, stopped when idle, down to none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from runpod_emulator.endpoint.registry import State, Worker
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.settings import inherited_environment, worker_environment
from runpod_emulator.workers.scaling import Situation, workers_wanted

logger = logging.getLogger(__name__)

CANNOT_START = 127  # what a shell says of a command that it cannot run


@dataclass(frozen=True)
class WorkerCommand:
    """How a worker is started. Its output goes to `{log_directory}/{worker id}.log`, or where this process's goes."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    log_directory: Path | None = None


class Fleet:
    """The processes of one endpoint. Each has one task, which lives as long as it does."""

    def __init__(self, endpoint: Endpoint, command: WorkerCommand, base_url: str) -> None:
        self._endpoint = endpoint
        self._registry = endpoint.registry
        self._settings = endpoint.settings
        self._command = command
        self._base_url = base_url
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._last_start = -math.inf
        self._not_before = -math.inf

    def reconcile(self) -> None:
        """Starts the workers that jobs need, stops those that nobody needs, kills those that cannot be counted on."""
        now = self._endpoint.clock()
        if doomed := self._endpoint.injector.crashing(list(self._processes), now):
            self.kill(doomed)
        for worker in self._unattended():
            if worker.state is State.UNHEALTHY:
                self.kill(worker.id)
            elif worker.is_stopping:  # it asked for it: refresh_worker
                self._stop(worker)
        for worker in self._registry.idle_too_long():
            self._stop(worker)
        self._grow(now)

    def _grow(self, now: float) -> None:
        situation = Situation(self._endpoint.store.load(), len(self._registry.alive()), now - self._last_start)
        for _ in range(workers_wanted(self._endpoint.settings, situation) - situation.workers):
            if now >= self._not_before:
                self._start(now)

    def kill(self, worker_id: str) -> None:
        """SIGKILL to the worker and all its children, which includes the SDK's ping process."""
        if process := self._processes.get(worker_id):
            _signal_group(process.pid, signal.SIGKILL)

    def terminate(self, worker_id: str) -> None:
        """SIGTERM to the worker, and to it alone: what a container's first process gets."""
        if (process := self._processes.get(worker_id)) and process.returncode is None:
            process.terminate()

    async def close(self) -> None:
        """Stops all workers and waits for their ends."""
        for worker in self._unattended():
            self._stop(worker)
        await asyncio.gather(*self._stops.values(), *self._lives.values())

    def _unattended(self) -> list[Worker]:
        """Those that run and are not being stopped."""
        return [self._registry.workers[worker_id] for worker_id in self._lives if worker_id not in self._stops]

    def _start(self, now: float) -> None:
        self._last_start = now
        worker = self._registry.start(secrets.token_hex(7))
        self._lives[worker.id] = asyncio.create_task(self._live(worker))

    async def _live(self, worker: Worker) -> None:
        """From the start of the process until nothing of it is left."""
        exit_code = CANNOT_START
        try:
            process = await self._spawn(worker)
            self._processes[worker.id] = process
            logger.info("worker %s started, process %d", worker.id, process.pid)
            if worker.is_stopping:
                process.terminate()
            exit_code = await process.wait()
            _signal_group(process.pid, signal.SIGKILL)  # children that outlived it
        except OSError as error:
            logger.error("worker %s cannot start: %s", worker.id, error)
        finally:
            self._processes.pop(worker.id, None)
            self._lives.pop(worker.id, None)
            if worker.state is State.INITIALIZING and not worker.is_stopping:
                self._not_before = self._endpoint.clock() + self._settings.restart_delay_seconds
            logger.info("worker %s ended, exit code %d", worker.id, exit_code)
            self._endpoint.end_worker(worker, exit_code)

    async def _spawn(self, worker: Worker) -> asyncio.subprocess.Process:
        variables = inherited_environment() | dict(self._command.variables)
        with self._log(worker) as log:
            return await asyncio.create_subprocess_exec(
                *self._command.arguments,
                env=variables | worker_environment(self._settings, self._base_url, worker.id),
                cwd=self._command.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _log(self, worker: Worker) -> contextlib.AbstractContextManager[IO[bytes] | None]:
        directory = self._command.log_directory
        if directory is None:
            return contextlib.nullcontext()
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / f"{worker.id}.log").open("wb")

    def _stop(self, worker: Worker) -> None:
        """SIGTERM now, SIGKILL after the grace."""
        self._endpoint.retire(worker)
        self._stops[worker.id] = asyncio.create_task(self._see_off(worker.id))

    async def _see_off(self, worker_id: str) -> None:
        life = self._lives.get(worker_id)
        if life is None:
            return
        self.terminate(worker_id)
        try:
            await asyncio.wait_for(asyncio.shield(life), self._settings.stop_grace_seconds)
        except TimeoutError:
            logger.warning("worker %s did not stop within %g s", worker_id, self._settings.stop_grace_seconds)
            self.kill(worker_id)
            await life
        finally:
            self._stops.pop(worker_id, None)


def _signal_group(process_id: int, number: signal.Signals) -> None:
    """A worker leads its own process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, number)
