"""The job loop: takes jobs, runs them, posts their outputs, stops them. It runs in the engine's own event loop.

It sees RunPod only as a `Platform` and the engine only as an `Answerer`, so that a test can replace either.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from handler.errors import EngineUnavailable, NotBegun, StreamBroken, WorkerError
from handler.logs import current_job
from handler.metrics import Outcome, WorkerMetrics
from handler.outputs import Output, StreamPiece, WholeAnswer
from handler.queue.platform import Answerer, Job, Platform, PostRejected

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pauses:
    """The pauses and limits of the job loop, in seconds."""

    #: After a failed poll or post, doubled each time up to `longest_retry`.
    retry: float = 0.2
    longest_retry: float = 5.0
    #: For how long the end of a job is offered again before it is given up.
    deliver: float = 120.0
    #: The same, once the grace period of a shutdown is over: what is not delivered by then goes back to the platform.
    last_deliver: float = 6.0
    #: For how long running jobs may go on after a shutdown began.
    grace: float = 15.0
    #: For how long a poll under way may still bring jobs after a shutdown began.
    last_look: float = 0.05
    #: Between two looks at the capacity while all slots are taken, or while the engine cannot serve.
    look_again: float = 0.1


class JobLoop:
    """Runs jobs, at any time as many as `capacity` allows just then."""

    def __init__(
        self,
        platform: Platform,
        answerer: Answerer,
        capacity: Callable[[], int],
        pauses: Pauses | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        self._platform = platform
        self._answerer = answerer
        self._capacity = capacity
        self._pauses = pauses or Pauses()
        self._metrics = metrics or WorkerMetrics()
        self._running: dict[str, asyncio.Task[None]] = {}
        #: Jobs whose end is being posted. A shutdown no longer cancels them.
        self._delivering: set[str] = set()
        #: Jobs of which a piece is at the platform: their end must be posted as that of a stream.
        self._streamed: set[str] = set()
        #: Jobs that were taken and wait for an engine that is gone. Without an end from here they go back to the
        #: platform when this worker ends.
        self._not_begun: set[str] = set()
        self._slot_freed = asyncio.Event()
        self._shutdown = asyncio.Event()
        self._engine_error: WorkerError | None = None

    @property
    def jobs_in_progress(self) -> int:
        """The number of jobs taken and not yet answered."""
        return len(self._running)

    @property
    def jobs_begun(self) -> int:
        """The number of jobs taken and not yet answered, less those that wait for an engine that is gone."""
        return len(self._running) - len(self._not_begun)

    def shut_down(self, error: WorkerError | None = None) -> None:
        """Stops the taking of jobs. Running ones may finish; with an `error` of the engine all fail with it at once."""
        self._engine_error = self._engine_error or error
        self._shutdown.set()

    async def run(self) -> None:
        """Takes and runs jobs until `shut_down`, then winds up. Every job that has begun gets its end posted.

        Raises what stopped the taking, where that was a fault of the worker: one that takes no jobs must not stay.
        """
        async with _background(self._obey_stop_signals()):
            try:
                async with _background(self._take_jobs()) as taking, _background(self._shutdown.wait()) as shutdown:
                    await asyncio.wait({taking, shutdown}, return_when=asyncio.FIRST_COMPLETED)
                    # A job that is already on its way here is better run than missed by the platform.
                    await asyncio.wait({taking}, timeout=self._pauses.last_look)
            finally:
                await self._wind_up()

    async def _take_jobs(self) -> None:
        retry = self._pauses.retry
        while True:
            free = await self._free_slots()
            try:
                jobs = await self._platform.take(free)
            except Exception as error:
                logger.warning("cannot take jobs: %s; trying again in %.1f s", type(error).__name__, retry)
                await asyncio.sleep(retry)
                retry = min(2 * retry, self._pauses.longest_retry)
                continue
            retry = self._pauses.retry
            for job in jobs:
                self._start(job)

    async def _free_slots(self) -> int:
        while (free := self._capacity() - len(self._running)) <= 0:
            self._slot_freed.clear()
            with contextlib.suppress(TimeoutError):  # the engine may have room again without the end of any job
                await asyncio.wait_for(self._slot_freed.wait(), self._pauses.look_again)
        return free

    def _start(self, job: Job) -> None:
        """Starts a job in a task of its own."""
        # Without an id there is no address for an answer, not even for an error.
        job_id = job.get("id") if isinstance(job, dict) else None
        if not isinstance(job_id, str) or not job_id:
            logger.error("the platform delivered something that is no job with an id: ignored")
            return
        if job_id in self._running:  # a second delivery must not run it twice
            logger.warning("job %s was delivered again while it runs: ignored", job_id)
            return
        self._platform.started(job)
        self._metrics.job_started()
        task = asyncio.create_task(self._run_job(job), name=job_id)
        self._running[job_id] = task
        task.add_done_callback(lambda _: self._forget(job))

    def _forget(self, job: Job) -> None:
        self._running.pop(job["id"], None)
        self._delivering.discard(job["id"])
        self._streamed.discard(job["id"])
        self._not_begun.discard(job["id"])
        self._platform.finished(job)
        self._slot_freed.set()

    async def _run_job(self, job: Job) -> None:
        """Posts a job's outputs as they come, and its end. A job that is stopped posts nothing more."""
        current_job.set(job["id"])
        start = time.perf_counter()
        outcome: Outcome = "stopped"
        try:
            result = await self._result(job)
            self._delivering.add(job["id"])
            outcome = await self._deliver(job, result)
        finally:
            if job["id"] in self._not_begun and self._engine_error is not None:
                outcome = "returned"
            self._metrics.job_ended(outcome, time.perf_counter() - start)

    async def _result(self, job: Job) -> dict[str, Any]:
        """Returns the end of a job; raises CancelledError for one that the platform stopped, or that goes back."""
        try:
            while True:
                with contextlib.suppress(NotBegun):
                    return await self._answer(job)
                await self._until_the_engine_can_serve(job)
        except asyncio.CancelledError:
            if self._engine_error is None or job["id"] in self._not_begun:
                raise
            return {"error": self._engine_error.to_json_text()}
        except WorkerError as error:
            return {"error": error.to_json_text()}
        except Exception as error:
            logger.exception("the job loop failed")
            return {"error": WorkerError(f"internal error of the worker: {type(error).__name__}").to_json_text()}

    async def _until_the_engine_can_serve(self, job: Job) -> None:
        """Holds a job that the engine has not seen: to fail it would be to lose work that another worker can do."""
        self._not_begun.add(job["id"])
        while True:
            await asyncio.sleep(self._pauses.look_again)
            if self._capacity() > 0:
                break
        self._not_begun.discard(job["id"])

    async def _answer(self, job: Job) -> dict[str, Any]:
        kept: list[Output] = []
        taken_at: float | None = time.perf_counter()
        parsed = self._answerer.parse(job.get("input"))
        async with contextlib.aclosing(self._answerer.outputs(parsed)) as outputs:
            async for output in outputs:
                if taken_at is not None:
                    self._metrics.first_output(time.perf_counter() - taken_at)
                    taken_at = None
                match output:
                    case StreamPiece(text):
                        await self._post_piece(job, text)
                        if parsed.form.repeats_stream:
                            kept.append(output)
                    case WholeAnswer():
                        kept.append(output)
        return {"output": parsed.form.final_output(kept)}

    async def _post_piece(self, job: Job, piece: str) -> None:
        """Posts a piece of a stream; raises WorkerError where it cannot be delivered."""
        # A piece that is left out would be a silent gap in the answer, so the job fails instead.
        try:
            await self._platform.post_stream(job, piece)
            self._streamed.add(job["id"])
        except WorkerError:
            raise
        except PostRejected as error:
            raise WorkerError(f"RunPod rejected a piece of the stream: {error}") from error
        except Exception as error:
            raise StreamBroken(f"a piece of the stream could not be delivered: {type(error).__name__}") from error

    async def _deliver(self, job: Job, result: dict[str, Any]) -> Outcome:
        """Posts the end of a job, again and again for as long as `Pauses.deliver`; returns the outcome.

        An output that the platform rejects is replaced by an error with the reason. A rejected error is given up.
        """
        is_stream = job["id"] in self._streamed
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._pauses.deliver
        retry = self._pauses.retry
        while True:
            try:
                await self._platform.post_result(job, result, is_stream=is_stream)
                return "failed" if "error" in result else "completed"
            except PostRejected as error:
                logger.error("the platform rejected the result: %s", error)
                if "error" in result:
                    return "failed"
                result = {"error": WorkerError(f"RunPod rejected the result: {error}").to_json_text()}
                continue
            except Exception as error:
                if clock() + retry > deadline:
                    logger.error("the result could not be delivered: %s", type(error).__name__)
                    return "failed"
            await asyncio.sleep(retry)
            retry = min(2 * retry, self._pauses.longest_retry)

    async def _obey_stop_signals(self) -> None:
        while True:
            try:
                job_ids = await self._platform.stop_signals()
            except Exception as error:
                logger.warning("cannot read stop signals: %s", type(error).__name__)
                job_ids = []
            for job_id in job_ids:
                if task := self._running.get(job_id):
                    logger.info("job %s is stopped by the platform", job_id)
                    task.cancel()
            if not job_ids:
                await asyncio.sleep(self._pauses.retry)  # a poll that returns at once must not spin

    async def _wind_up(self) -> None:
        """Lets running jobs finish within the grace period; the rest fail as retryable.

        With a dead engine all fail at once. Jobs that never began get no end: the platform gives them to another worker
        when this one is gone.
        """
        if self._running and self._engine_error is None:
            await asyncio.wait(self._running.values(), timeout=self._pauses.grace)
        self._engine_error = self._engine_error or EngineUnavailable("the worker is shutting down")
        for job_id, task in self._running.items():
            if job_id not in self._delivering:
                task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self._pauses.last_deliver)


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Runs `work` until the context is left; raises what it raised."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
