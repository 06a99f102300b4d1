"""Real worker processes: started when there are jobs, stopped when idle, down to none."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import math
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from runpod_emulator.endpoint.address import free_address
from runpod_emulator.endpoint.registry import READY, State, Worker
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.settings import balanced_environment, inherited_environment, worker_environment
from runpod_emulator.workers.output_pipe import WholeLines, output_pipe
from runpod_emulator.workers.scaling import ScalingInput, desired_workers

logger = logging.getLogger(__name__)

#: The exit code of a command that cannot be started, as a shell reports it.
CANNOT_START = 127
#: prctl(2).
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerCommand:
    """The command that starts a worker."""

    arguments: tuple[str, ...]
    #: Environment variables beside this process's own.
    variables: Mapping[str, str] = field(default_factory=dict)
    #: The working directory; None: this process's.
    directory: Path | None = None
    #: Each worker writes `{log_directory}/{worker id}.log`; None: to this process's output.
    log_directory: Path | None = None


class Fleet:
    """The processes of one endpoint. One task per process runs from its start to its end.

    terminal: takes the output of workers that have no log file, and does not wait.
    """

    def __init__(
        self, endpoint: Endpoint, command: WorkerCommand, base_url: str, terminal: Callable[[bytes], object]
    ) -> None:
        self._endpoint = endpoint
        self._registry = endpoint.registry
        self._settings = endpoint.settings
        self._command = command
        self._base_url = base_url
        self._terminal = terminal
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._last_start = -math.inf
        self._failed_starts = endpoint.failed_starts
        #: Workers that got SIGKILL from here: their ends say nothing about the command.
        self._killed: set[str] = set()
        #: Workers that were stopped because they were idle; they can be started again.
        self._scaled_down: set[str] = set()

    @property
    def running(self) -> list[str]:
        """The ids of the workers that have a process."""
        return list(self._processes)

    def reconcile(self) -> None:
        """Starts the workers that jobs need, stops idle ones, kills unhealthy ones."""
        now = self._endpoint.clock()
        if crashing := self._endpoint.injector.crashing(self.running, now):
            self.kill(crashing)
        for worker in self._not_being_stopped():
            if self._registry.is_given_up(worker):
                self.kill(worker.id)
            elif worker.is_stopping:  # the worker requested it: the SDK's refresh_worker
                self._stop(worker)
        for worker in self._registry.idle_too_long():
            self._scaled_down.add(worker.id)
            self._stop(worker)
        self._grow(now)

    def _grow(self, now: float) -> None:
        self._place_throttled()
        registry = self._registry
        there = len(registry.alive_for(batches=False)) + len(registry.throttled_for(batches=False))
        present = ScalingInput(self._endpoint.load(), there, now - self._last_start)
        # The endpoint's settings, not the ones from the start: the management APIs change them.
        for _ in range(desired_workers(self._endpoint.settings, present) - present.workers):
            if not self._failed_starts.seconds_to_next:
                self._last_start = now
                self._request()
        there = len(registry.alive_for(batches=True)) + len(registry.throttled_for(batches=True))
        for _ in range(self._endpoint.wanted_batch_workers() - there):
            if not self._failed_starts.seconds_to_next:
                self._request(takes_batches=True)

    def _request(self, worker_id: str | None = None, *, takes_batches: bool = False) -> None:
        worker = self._registry.request(worker_id or secrets.token_hex(7), takes_batches=takes_batches)
        if worker.state is not State.THROTTLED:
            self._start(worker)

    def _place_throttled(self) -> None:
        """Starts throttled workers for which there are GPUs now, and drops those that are not needed any more."""
        settings = self._endpoint.settings
        wanted = settings.max_workers if self._endpoint.load().queued else settings.min_workers
        for batches, most in ((False, wanted), (True, self._endpoint.wanted_batch_workers())):
            alive = len(self._registry.alive_for(batches=batches))
            for number, worker in enumerate(self._registry.throttled_for(batches=batches)):
                if alive + number >= most:
                    self._registry.drop(worker)
                elif self._registry.place(worker):
                    self._start(worker)

    def resume(self, worker_id: str) -> bool:
        """Starts a worker that was scaled down under its id again, once it has ended and there is room for it.

        Returns False where it can never come back: it ended otherwise, or runs a former release.
        """
        worker = self._registry.workers.get(worker_id)
        if worker is None or worker_id not in self._scaled_down or self._registry.is_stale(worker):
            return False
        has_room = len(self._registry.alive_for(batches=False)) < self._endpoint.settings.max_workers
        if worker.state is State.STOPPED and has_room and not self._failed_starts.seconds_to_next:
            self._scaled_down.discard(worker_id)
            self._request(worker_id)
        return True

    def kill(self, worker_id: str) -> None:
        """Sends SIGKILL to the worker and all its children, which includes the SDK's ping process."""
        if process := self._processes.get(worker_id):
            self._killed.add(worker_id)
            _signal_group(process.pid, signal.SIGKILL)

    def terminate(self, worker_id: str) -> None:
        """Sends SIGTERM to the worker's first process only, as a container runtime does."""
        if (process := self._processes.get(worker_id)) and process.returncode is None:
            process.terminate()

    async def close(self) -> None:
        """Stops all workers and waits for their ends."""
        for worker in self._not_being_stopped():
            self._stop(worker)
        await asyncio.gather(*self._stops.values(), *self._runs.values())

    def _not_being_stopped(self) -> list[Worker]:
        return [self._registry.workers[worker_id] for worker_id in self._runs if worker_id not in self._stops]

    def _start(self, worker: Worker) -> None:
        self._runs[worker.id] = asyncio.create_task(self._run(worker))

    async def _run(self, worker: Worker) -> None:
        """Starts the worker's process, and waits until the process and its children have ended."""
        exit_code = CANNOT_START
        try:
            with self._copy(worker) as copy:
                async with output_pipe(worker.output, copy) as pipe:
                    exit_code = await self._run_process(worker, pipe)
        except OSError as error:
            logger.error("worker %s cannot start: %s", worker.id, error)
            worker.output.report(f"The worker cannot start: {error}")
        finally:
            self._processes.pop(worker.id, None)
            self._runs.pop(worker.id, None)
            logger.info("worker %s ended, exit code %d", worker.id, exit_code)
            self._note_end(worker, exit_code)
            self._endpoint.end_worker(worker, exit_code)

    async def _run_process(self, worker: Worker, pipe: IO[bytes]) -> int:
        """Runs the worker's process to its end, and returns its exit code."""
        process = await self._spawn(worker, pipe)
        pipe.close()  # the process has its own
        self._processes[worker.id] = process
        logger.info("worker %s started, process %d", worker.id, process.pid)
        worker.output.report(f"The worker has started, version {worker.release.version}.")
        if worker.is_stopping:  # since before its process was there to get SIGTERM
            process.terminate()
        exit_code = await process.wait()
        _signal_group(process.pid, signal.SIGKILL)  # its children may still run
        return exit_code

    def _note_end(self, worker: Worker, exit_code: int) -> None:
        """Counts a failed start: a command that fails must not be started again in a busy loop."""
        was_killed = worker.id in self._killed
        self._killed.discard(worker.id)
        if worker.state in READY:
            self._failed_starts.end()
        elif worker.state is State.INITIALIZING and not worker.is_stopping and not was_killed:
            directory = self._command.log_directory
            log = "its output above" if directory is None else f"{directory / worker.id}.log"
            self._failed_starts.add(exit_code, log)
            logger.error("%s", self._failed_starts.message())

    async def _spawn(self, worker: Worker, pipe: IO[bytes]) -> asyncio.subprocess.Process:
        variables = inherited_environment() | dict(self._command.variables) | dict(worker.release.variables)
        return await asyncio.create_subprocess_exec(
            *self._command.arguments,
            env=variables | self._own_variables(worker, variables),
            cwd=self._command.directory,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,  # its own process group, so that kill() reaches its children
            preexec_fn=_ending_with(os.getpid()),
        )

    def _own_variables(self, worker: Worker, variables: Mapping[str, str]) -> dict[str, str]:
        if not self._settings.is_balanced:
            return worker_environment(self._settings, self._base_url, worker.id)
        worker.address = address = free_address(variables)
        return balanced_environment(self._settings, worker.id, address.port, address.health_port)

    @contextlib.contextmanager
    def _copy(self, worker: Worker) -> Iterator[Callable[[bytes], object]]:
        """Opens the place where the worker's output is copied to: its log file, or this process's output."""
        directory = self._command.log_directory
        if directory is None:
            lines = WholeLines(self._terminal)
            yield lines.add
            lines.close()
            return
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{worker.id}.log").open("wb", buffering=0) as file:
            yield file.write

    def _stop(self, worker: Worker) -> None:
        """Sends SIGTERM now, and SIGKILL after `stop_grace_seconds`."""
        self._endpoint.retire(worker)
        self._stops[worker.id] = asyncio.create_task(self._terminate_then_kill(worker.id))

    async def _terminate_then_kill(self, worker_id: str) -> None:
        run = self._runs.get(worker_id)
        if run is None:
            return
        self.terminate(worker_id)
        try:
            await asyncio.wait_for(asyncio.shield(run), self._settings.stop_grace_seconds)
        except TimeoutError:
            logger.warning("worker %s did not stop within %g s", worker_id, self._settings.stop_grace_seconds)
            self.kill(worker_id)
            await run
        finally:
            self._stops.pop(worker_id, None)


def _ending_with(emulator: int) -> Callable[[], None] | None:
    """Returns what makes a child process end when this one is killed; None on a system that cannot.

    A worker that outlived a killed emulator would ask for jobs for ever.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # loaded here: little may be done between fork and exec
    if prctl is None:
        return None

    def end_with_the_emulator() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != emulator:  # it ended before that
            os._exit(CANNOT_START)

    return end_with_the_emulator


def _signal_group(process_id: int, number: signal.Signals) -> None:
    """Sends a signal to the process group that the worker leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process_id, number)
