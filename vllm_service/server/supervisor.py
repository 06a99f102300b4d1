"""Several gateway processes behind one port: forked by a parent that starts, watches, reloads and drains them together.

They share the listening socket itself, not only its port: a connection that a dying worker had not taken yet goes to
another one. A worker that loses its parent stops by itself.
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
from vllm_service.errors import ServiceError

_log = logging.getLogger(__name__)
_WATCHED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1})
SHORT_LIFE_SECONDS = 10.0
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.1, 30.0
CLEANING_SECONDS = 15.0  # after the grace, for the ledger's last rows


@dataclass(frozen=True, slots=True)
class WorkerSlot:
    """What one worker is given: its number from 1, the shared socket, and a pipe that ends when the parent does."""

    number: int
    workers: int
    listening: socket.socket
    lifeline: int
    shared: mmap.mmap

    def ready(self) -> None:
        """The worker serves, and handles signals: until now they were held back."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        self.shared[8 + self.number] = 1
        os.kill(os.getppid(), signal.SIGUSR1)

    def status(self) -> WorkerSlotState:
        """Returns which of how many processes this is, and how often one was started again."""
        return WorkerSlotState(self.number, self.workers, int.from_bytes(self.shared[:8], "little"))


@dataclass(slots=True)
class _Worker:
    number: int
    started_at: float


@dataclass
class Supervisor:
    """Runs `serve` in as many processes. To be made in a process with one thread; `announce` when all serve.

    serve: a worker's whole life; returns its exit code.
    """

    workers: int
    listening: socket.socket
    serve: Callable[[WorkerSlot], int]
    announce: Callable[[], None]
    grace_seconds: float
    _alive: dict[int, _Worker] = field(default_factory=dict, init=False)
    _due: dict[int, float] = field(default_factory=dict, init=False)
    _short_lives: dict[int, int] = field(default_factory=dict, init=False)
    _restarts: int = field(default=0, init=False)
    _code: int = field(default=0, init=False)
    _ends_by: float | None = field(default=None, init=False)
    _is_announced: bool = field(default=False, init=False)

    def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a worker cannot start at all. 0 when every worker ended with 0."""
        self._shared = mmap.mmap(-1, 8 + self.workers + 1)
        self._lifeline, self._held = os.pipe()
        old = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            for number in range(1, self.workers + 1):
                self._start(number)
            while self._alive or (self._ends_by is None and self._due):
                self._handle(self._next_signal())
        finally:
            self._signal_all(signal.SIGKILL)
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        return self._code

    def _next_signal(self) -> int | None:
        """None when a worker is due, or the time to end is over."""
        times = [*self._due.values()] if self._ends_by is None else [self._ends_by]
        wait = max(0.0, min(times, default=time.monotonic() + 60) - time.monotonic())
        received = signal.sigtimedwait(_WATCHED, wait)
        return None if received is None else received.si_signo

    def _handle(self, number: int | None) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._drain()
        elif number == signal.SIGHUP:
            self._signal_all(signal.SIGHUP)
        elif number == signal.SIGUSR1:
            self._announce()
        self._reap()
        now = time.monotonic()
        if self._ends_by is not None and now >= self._ends_by:
            _log.error("%d workers did not end in time and are killed", len(self._alive))
            self._signal_all(signal.SIGKILL)
            self._ends_by = now + CLEANING_SECONDS
        for due in [due for due, at in self._due.items() if self._ends_by is None and at <= now]:
            del self._due[due]
            self._start(due)

    def _announce(self) -> None:
        if not self._is_announced and all(self._shared[9:]):
            self._is_announced = True
            self.announce()

    def _drain(self) -> None:
        """No new connections; each worker ends what it has."""
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
            self._code = self._code or min(abs(code), 1)
            return
        if not self._shared[8 + worker.number]:
            _log.error("worker %d (process %d) could not start: it ended %s", worker.number, pid, how)
            self._code = 1
            self._drain()
            return
        lived = time.monotonic() - worker.started_at
        short = self._short_lives.get(worker.number, 0) + 1 if lived < SHORT_LIFE_SECONDS else 0
        self._short_lives[worker.number] = short
        delay = min(FIRST_DELAY_SECONDS * 2**short, LONGEST_DELAY_SECONDS) if short > 1 else 0.0
        self._due[worker.number] = time.monotonic() + delay
        self._restarts += 1
        self._shared[:8] = self._restarts.to_bytes(8, "little")
        _log.error("worker %d (process %d) ended %s; it is started again in %.1f s", worker.number, pid, how, delay)

    def _start(self, number: int) -> None:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(self._held)
            place = WorkerSlot(number, self.workers, self.listening, self._lifeline, self._shared)
            _end(lambda: self.serve(place))
        self._alive[pid] = _Worker(number, time.monotonic())

    def _signal_all(self, number: signal.Signals) -> None:
        """Those that have ended are not reaped yet, so no number belongs to a stranger."""
        for pid in self._alive:
            os.kill(pid, number)


def _end(serve: Callable[[], int]) -> None:
    """The forked process ends here, and never runs what its parent would do next."""
    code = 1
    try:
        code = serve()
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
