"""Runs several gateway processes behind one port: a parent forks, watches, reloads and drains them together.

They share the listening socket itself, not only its port: a connection that a dying worker had not accepted yet goes to
another worker. A worker whose parent is gone stops by itself.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from vllm_service.domain.status import WorkerSlotState
from vllm_service.errors import ServiceError, one_line

_log = logging.getLogger(__name__)
#: SIGCHLD: a worker has ended. SIGUSR1: a worker serves.
_HANDLED_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1})
#: A worker that ends sooner probably ends so again: each further restart of it waits twice as long.
SHORT_LIFE_SECONDS = 10.0
FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 30.0
#: After the grace, for the ledger's last rows.
CLEANING_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """One worker's share of what the parent opened before it forked."""

    #: From 1; a worker that is started again has the number of the one that ended.
    number: int
    workers: int
    listening: socket.socket
    #: The reading end of a pipe that is at its end when the parent is gone.
    lifeline: int
    #: Memory that all processes see: the count of restarts in 8 bytes, then at 8 + number a 1 when the worker served.
    shared: mmap.mmap

    def ready(self) -> None:
        """Reports that the worker serves, and lets in the signals that were blocked until it had handlers."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED_SIGNALS)
        self.shared[8 + self.number] = 1
        os.kill(os.getppid(), signal.SIGUSR1)

    def status(self) -> WorkerSlotState:
        """Returns which of how many processes this is, and how often one was started again."""
        return WorkerSlotState(self.number, self.workers, int.from_bytes(self.shared[:8], "little"))


@dataclass(slots=True)
class _Worker:
    number: int
    #: By the monotonic clock.
    started_at: float


@dataclass
class Supervisor:
    """Runs `serve` in several processes and keeps their number.

    Must run in a process without other threads than the log's, which each process has anew: a fork copies only the
    calling thread, and locks of others stay locked.
    """

    workers: int
    listening: socket.socket
    #: A worker's whole run; returns its exit code.
    serve: Callable[[WorkerSlot], int]
    #: Called once, when all workers serve.
    announce: Callable[[], None]
    grace_seconds: float
    #: By process id.
    _alive: dict[int, _Worker] = field(default_factory=dict, init=False)
    #: When a worker that ended is started again, by its number.
    _restart_at: dict[int, float] = field(default_factory=dict, init=False)
    #: How many times in a row a worker ended early, by its number.
    _short_lives: dict[int, int] = field(default_factory=dict, init=False)
    _restarts: int = field(default=0, init=False)
    _exit_code: int = field(default=0, init=False)
    #: When the workers that still run are killed; None while nothing is stopping.
    _ends_by: float | None = field(default=None, init=False)
    _is_announced: bool = field(default=False, init=False)

    def run(self) -> int:
        """Runs until SIGTERM or SIGINT, or until a worker cannot start at all. Returns 0 if every worker ended with 0.

        Signals are blocked and then taken one by one with sigtimedwait: no handler interrupts this code anywhere, none
        is lost between a check and a wait, and a fork has no half-handled one.
        """
        self._shared = mmap.mmap(-1, 8 + self.workers + 1)
        self._lifeline, self._lifeline_writer = os.pipe()
        old = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED_SIGNALS)
        try:
            for number in range(1, self.workers + 1):
                self._start(number)
            while self._alive or (self._ends_by is None and self._restart_at):
                self._handle(self._next_signal())
        finally:
            self._signal_all(signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        return self._exit_code

    def _next_signal(self) -> int | None:
        """Waits for a signal. Returns None when a worker is to be started again, or the time to end is over."""
        times = [*self._restart_at.values()] if self._ends_by is None else [self._ends_by]
        wait = max(0.0, min(times, default=time.monotonic() + 60) - time.monotonic())
        received = signal.sigtimedwait(_HANDLED_SIGNALS, wait)
        return None if received is None else received.si_signo

    def _handle(self, number: int | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._drain()
        elif number == signal.SIGHUP:
            self._signal_all(signal.SIGHUP)
        elif number == signal.SIGUSR1:
            self._announce()
        # After every signal, not only SIGCHLD: several children that end at once raise it only once.
        self._reap()
        now = time.monotonic()
        if self._ends_by is not None and now >= self._ends_by:
            _log.error("%d workers did not end in time and are killed", len(self._alive))
            self._signal_all(signal.SIGKILL)
            self._ends_by = now + CLEANING_SECONDS
        for ended in [ended for ended, at in self._restart_at.items() if self._ends_by is None and at <= now]:
            del self._restart_at[ended]
            self._start(ended)

    def _announce(self) -> None:
        if not self._is_announced and all(self._shared[9:]):  # 9: the first worker's byte, as numbers begin at 1
            self._is_announced = True
            self.announce()

    def _drain(self) -> None:
        """Stops taking connections and lets each worker end its requests."""
        if self._ends_by is None:
            self._ends_by = time.monotonic() + self.grace_seconds + CLEANING_SECONDS
            self.listening.close()
            self._signal_all(signal.SIGTERM)

    def _reap(self) -> None:
        while self._alive:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if (worker := self._alive.pop(pid, None)) is not None:
                self._ended(worker, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, pid: int, code: int) -> None:
        how = f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        if self._ends_by is not None:
            self._exit_code = self._exit_code or min(abs(code), 1)
            return
        if not self._shared[8 + worker.number]:
            # No worker of this number has ever served: the configuration is wrong, and starting again would not help.
            _log.error("worker %d (process %d) could not start: it ended %s", worker.number, pid, how)
            self._exit_code = 1
            self._drain()
            return
        lived = time.monotonic() - worker.started_at
        short = self._short_lives.get(worker.number, 0) + 1 if lived < SHORT_LIFE_SECONDS else 0
        self._short_lives[worker.number] = short
        delay = min(FIRST_DELAY_SECONDS * 2**short, LONGEST_DELAY_SECONDS) if short > 1 else 0.0
        self._restart_at[worker.number] = time.monotonic() + delay
        self._restarts += 1
        self._shared[:8] = self._restarts.to_bytes(8, "little")
        _log.error("worker %d (process %d) ended %s; it is started again in %.1f s", worker.number, pid, how, delay)

    def _start(self, number: int) -> None:
        sys.stdout.flush()  # or the child would write the unwritten text once more
        pid = os.fork()
        if pid == 0:
            # Only the parent may hold the writing end: while any worker held it, no worker would see the parent's end.
            os.close(self._lifeline_writer)
            slot = WorkerSlot(number, self.workers, self.listening, self._lifeline, self._shared)
            _serve_and_exit(lambda: self.serve(slot))
        self._alive[pid] = _Worker(number, time.monotonic())

    def _signal_all(self, number: signal.Signals) -> None:
        """Sends a signal to all workers. A process id is not reused before `_reap`, so no stranger is hit."""
        for pid in self._alive:
            os.kill(pid, number)


def _serve_and_exit(serve: Callable[[], int]) -> None:
    """Ends the forked process with `os._exit`, so that it never runs the code of its parent that would come next."""
    code = 1
    try:
        code = serve()
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
    except OSError as error:
        sys.stderr.write(f"{one_line(error)}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        logging.shutdown()  # writes the last lines
        os._exit(code)
