"""From a deployed endpoint to its first token: wakes a worker, waits for it, asks one question.

A job that lists the models wakes a worker and says when it is ready: RunPod keeps it in its queue until a worker
takes it. A load-balancing endpoint has no queue, so there the list is asked for again and again. Meanwhile the workers'
states and logs are read for whoever waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from vllm_service.deployment.cold_start import ColdStart, parse_cold_start
from vllm_service.deployment.endpoint_calls import EndpointCalls, WakingJob
from vllm_service.deployment.situation import ADVICE, Situation, situation_of
from vllm_service.deployment.worker_logs import DEFAULT_TAIL, LogLine, WorkerLog
from vllm_service.errors import ServiceError, UpstreamFailed
from vllm_service.runpod.rest_api import RestApi, endpoint_path
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.workers import EndpointWorkers, SeenWorker, parse_workers

QUESTION = "What is the capital of France?"
LOOK_SECONDS = 2.0
#: Workers whose logs are read at the same time.
MOST_LOGS = 10
#: How long the record of a start is waited for after the worker has answered: the log comes a little later.
LOG_SECONDS = 5.0
#: How long the end of a wait may take to take its job back.
TAKE_BACK_SECONDS = 5.0
_MILLISECOND = Decimal("0.001")


class Watcher(Protocol):
    """Shows a wait to whoever waits."""

    def saw(self, situation: Situation, workers: EndpointWorkers | None, seconds: float) -> None:
        """Takes the workers as they are now, and the seconds since the wait began."""
        ...

    def logged(self, line: LogLine) -> None:
        """Takes one line of a worker's log."""
        ...


class NotReady(ServiceError):
    """No worker answered in time. The endpoint is there, and goes on."""

    code = "MODEL_503"
    status = 503
    is_transient = True


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The end of a wait: an answer, and what it took."""

    model: str
    text: str
    #: From the chat request to its whole answer.
    answer_seconds: Decimal
    #: From the beginning to a worker that answered.
    wait_seconds: Decimal
    #: False where a worker was warm before.
    was_cold: bool
    #: The record in a worker's log; None where no log could be read.
    start: ColdStart | None
    #: The worker of that record, else a warm one; None where the workers cannot be seen.
    worker: SeenWorker | None


class FirstRequest:
    """One wait for one endpoint. clock: monotonic seconds."""

    def __init__(
        self,
        api: RestApi,
        endpoint_id: str,
        calls: EndpointCalls,
        watcher: Watcher,
        *,
        longest_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._endpoint_id = endpoint_id
        self._calls = calls
        self._watcher = watcher
        self._longest_seconds = longest_seconds
        self._clock = clock
        self._sleep = sleep
        self._began = 0.0
        self._situation = Situation.UNKNOWN
        self._workers: EndpointWorkers | None = None
        self._starts: dict[str, ColdStart] = {}
        self._has_start = asyncio.Event()
        self._logs: dict[str, asyncio.Task[None]] = {}
        #: What these logged before is of no use to whoever waits.
        self._warm_before: frozenset[str] = frozenset()

    async def run(self, question: str = QUESTION) -> FirstAnswer:
        """Returns the first answer. Raises NotReady when the time is up, RestError and UpstreamFailed."""
        self._began = self._clock()
        await self._look()
        warm = [worker.id for worker in self._seen if worker.status.is_warm]
        self._warm_before, was_cold = frozenset(warm), not warm
        try:
            async with asyncio.timeout(self._longest_seconds), self._watching():
                models = await self._ready()
                waited = self._seconds()
                model = _model(models)
                left = max(self._longest_seconds - self._clock() + self._began, 1.0)
                text = await self._calls.chat(model, question, left)
                answered = self._seconds()
                await self._look()
                if was_cold and self._logs:
                    await self._record()
        except TimeoutError:
            raise self._not_ready() from None
        start_worker = next(iter(self._starts), None) if was_cold else None
        return FirstAnswer(
            model=model,
            text=text,
            answer_seconds=answered - waited,
            wait_seconds=waited,
            was_cold=was_cold,
            start=self._starts.get(start_worker or ""),
            worker=self._worker(start_worker),
        )

    async def _ready(self) -> tuple[str, ...]:
        """Returns the models of a worker that is ready."""
        if not self._calls.has_queue:
            while (models := await self._calls.models()) is None:
                await self._sleep(LOOK_SECONDS)
            return models
        # A task of its own: when this wait ends during the request, the job's id is still needed to take it back.
        waking = asyncio.create_task(self._calls.wake(self._longest_seconds))
        try:
            job_id = await asyncio.shield(waking)
            job = await self._ended(job_id)
        except BaseException:
            await asyncio.shield(self._take_back(waking))
            raise
        if job.status != "COMPLETED" or job.problem:
            raise UpstreamFailed(
                f"the endpoint's first job ended as {job.status} ({job.problem or 'no reason given'}): read the log "
                "with `deploy logs`, correct the deployment and apply it again"
            )
        return job.models

    async def _ended(self, job_id: str) -> WakingJob:
        """Returns the job once it has ended. A fault on the way, which passes, does not end a wait of minutes."""
        while True:
            try:
                if (job := await self._calls.job(job_id)).has_ended:
                    return job
            except UpstreamFailed as fault:
                if not fault.is_transient:
                    raise
            await self._sleep(LOOK_SECONDS)

    async def _take_back(self, waking: asyncio.Task[str]) -> None:
        """Cancels the job, so that it starts no worker when nobody waits any more. One that is lost ends by its ttl."""
        try:
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                await self._calls.cancel(await waking)
        except (ServiceError, TimeoutError):
            return

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        looking = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            tasks = [looking, *self._logs.values()]
            pending = set(tasks)
            while pending:  # more than once: a library may lose a cancellation, and the task would look on for ever
                for task in pending:
                    task.cancel()
                _, pending = await asyncio.wait(pending, timeout=1.0)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_on(self) -> None:
        while True:
            self._read_logs()
            await self._sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            self._workers = parse_workers(await self._api.get(f"{endpoint_path(self._endpoint_id)}/workers"))
        except RestError:
            self._workers = None  # only for showing: the job says when a worker is ready
        self._situation = situation_of(self._workers)
        self._watcher.saw(self._situation, self._workers, float(self._seconds()))

    def _read_logs(self) -> None:
        for worker in self._seen:
            if worker.id not in self._logs and len(self._logs) < MOST_LOGS:
                self._logs[worker.id] = asyncio.create_task(self._read_log(worker.id))

    @property
    def _seen(self) -> tuple[SeenWorker, ...]:
        return self._workers.workers if self._workers else ()

    async def _read_log(self, worker_id: str) -> None:
        tail = 0 if worker_id in self._warm_before else DEFAULT_TAIL
        log = WorkerLog(self._api, self._endpoint_id, worker_id, tail=tail, sleep=self._sleep)
        try:
            async for line in log.follow():
                self._watcher.logged(line)
                if (start := parse_cold_start(line.text)) is not None:
                    self._starts[worker_id] = start
                    self._has_start.set()
        except RestError:
            return  # the key may not read logs: the wait goes on without

    async def _record(self) -> None:
        """Waits a little for the record of the start."""
        try:
            async with asyncio.timeout(LOG_SECONDS):
                await self._has_start.wait()
        except TimeoutError:
            return

    def _worker(self, worker_id: str | None) -> SeenWorker | None:
        named = next((worker for worker in self._seen if worker.id == worker_id), None)
        return named or next((worker for worker in self._seen if worker.status.is_warm), None)

    def _seconds(self) -> Decimal:
        return Decimal(self._clock() - self._began).quantize(_MILLISECOND)

    def _not_ready(self) -> NotReady:
        return NotReady(
            f"no answer after {self._longest_seconds:.0f} s: {self._situation}. What to do: {ADVICE[self._situation]}."
        )


def _model(models: tuple[str, ...]) -> str:
    if not models:
        raise UpstreamFailed("the endpoint lists no model: is its image this repository's worker?")
    return models[0]
