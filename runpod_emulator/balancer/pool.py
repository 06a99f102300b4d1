"""Gives each request a worker: the least loaded one, or the one that it asks for. Without HTTP and processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from runpod_emulator.balancer.affinity import Affinity, Mode
from runpod_emulator.endpoint.registry import State, Worker
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.errors import AffinityWorkerGone, ApiError, NoWorker, WorkerTimeout

#: Starts a worker again that was scaled down, as soon as there is room for it. False: it will never come back.
Resume = Callable[[str], bool]


@dataclass(eq=False)
class _Ticket:
    affinity: Affinity | None
    granted: asyncio.Future[Worker] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Pool:
    """The requests of one endpoint, in the order in which they came, and the workers that have them."""

    def __init__(self, endpoint: Endpoint, resume: Resume) -> None:
        self._endpoint = endpoint
        self._resume = resume
        self._waiting: list[_Ticket] = []

    async def acquire(self, affinity: Affinity | None) -> Worker:
        """Returns a worker, which has one request more; release() has to follow.

        Waits while every worker has as many requests as it may have. Raises NoWorker, WorkerTimeout and
        AffinityWorkerGone.
        """
        settings = self._endpoint.settings
        is_pinned = affinity is not None and affinity.mode is not Mode.SOFT
        seconds = settings.pinned_wait_seconds if is_pinned else settings.no_worker_timeout_seconds
        ticket = _Ticket(affinity)
        self._waiting.append(ticket)
        try:
            self.assign()
            async with asyncio.timeout(seconds):
                return await ticket.granted
        except TimeoutError:
            raise self._timed_out(affinity if is_pinned else None, seconds) from None
        except asyncio.CancelledError:
            if ticket.granted.done() and not ticket.granted.cancelled() and not ticket.granted.exception():
                self.release(ticket.granted.result())
            raise
        finally:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            self._count()

    def release(self, worker: Worker) -> None:
        """Ends one request of the worker."""
        self._hold(worker, worker.jobs - 1)
        self.assign()

    def assign(self) -> None:
        """Gives workers to the requests that wait, the longest waiting first. Has to be called after each change."""
        for ticket in list(self._waiting):
            try:
                worker = self._worker_for(ticket.affinity)
            except ApiError as error:
                self._settle(ticket)
                ticket.granted.set_exception(error)
                continue
            if worker is not None:
                self._settle(ticket)
                self._hold(worker, worker.jobs + 1)
                ticket.granted.set_result(worker)
        self._count()
        if self._waiting:
            self._endpoint.changed.notify_all()  # the supervisor: a worker more may be needed at once

    def close(self) -> None:
        """Refuses the requests that wait."""
        for ticket in list(self._waiting):
            self._settle(ticket)
            ticket.granted.set_exception(NoWorker("the endpoint is being stopped"))

    def _settle(self, ticket: _Ticket) -> None:
        self._waiting.remove(ticket)

    def _worker_for(self, affinity: Affinity | None) -> Worker | None:
        """Returns the worker for a request; None: it has to wait. Raises AffinityWorkerGone."""
        if affinity is None:
            return self._least_loaded()
        wanted = self._endpoint.registry.workers.get(affinity.worker_id)
        if wanted is not None and self._is_free(wanted):
            return wanted
        if affinity.mode is Mode.SOFT:
            return self._least_loaded()
        if wanted is None or not self._may_come_back(wanted, affinity):
            raise AffinityWorkerGone(f"worker {affinity.worker_id} is not among this endpoint's active workers")
        return None

    def _may_come_back(self, worker: Worker, affinity: Affinity) -> bool:
        if worker.state is not State.STOPPED and not worker.is_stopping:
            return True
        return affinity.mode is Mode.STRICT_RESUME and self._resume(worker.id)

    def _least_loaded(self) -> Worker | None:
        free = (worker for worker in self._endpoint.registry.workers.values() if self._is_free(worker))
        return min(free, key=lambda worker: worker.jobs, default=None)

    def _is_free(self, worker: Worker) -> bool:
        return worker.gets_jobs and worker.jobs < self._endpoint.settings.requests_per_worker

    def _hold(self, worker: Worker, requests: int) -> None:
        # Not by the id: a worker that was started again has the same one.
        worker.jobs = requests
        if self._endpoint.registry.workers.get(worker.id) is worker:
            self._endpoint.registry.set_held_jobs(worker.id, requests)

    def _count(self) -> None:
        requests = self._endpoint.requests
        requests.waiting = len(self._waiting)
        requests.in_progress = sum(worker.jobs for worker in self._endpoint.registry.workers.values())

    def _timed_out(self, pinned: Affinity | None, seconds: float) -> ApiError:
        if pinned is not None:
            return WorkerTimeout(f"timed out waiting for worker {pinned.worker_id}, after {seconds:g} s")
        failed = self._endpoint.failed_starts
        why = f" {failed.message()}" if failed.in_a_row else ""
        return NoWorker(f"no workers available: none was free within {seconds:g} s.{why}")
