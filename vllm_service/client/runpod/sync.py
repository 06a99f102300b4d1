"""RunPodVLLMServiceSync: the same calls for code without an event loop. Any number of threads may share an object."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from vllm_service.client.boundary import raises_ours
from vllm_service.client.deltas import Delta
from vllm_service.client.results import Answer
from vllm_service.client.runpod.batch_job import BatchJob
from vllm_service.client.runpod.batch_values import BatchResult
from vllm_service.client.runpod.service import RunPodVLLMService
from vllm_service.client.streams import TextStream
from vllm_service.client.text_calls import constructing
from vllm_service.errors import InvalidRequest

T = TypeVar("T")
#: The time that an interrupted call gets to cancel its job.
CANCEL_SECONDS = 15.0


class LoopThread:
    """Runs coroutines for any thread, in a thread with an event loop.

    A forked process has only the thread that forked, so a new loop thread is started there at its first use.
    """

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        """at_end: awaited in the loop when it is stopped."""
        self._at_end = at_end
        self._is_closed = False
        self._starting = threading.Lock()
        self._running = _Running(at_end)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns or raises what the work does. An interrupt cancels the work, and waits for its end."""
        try:
            running = self._in_this_process()
        except InvalidRequest:
            work.close()
            raise
        ended = threading.Event()

        async def tracked() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = running.begin(tracked())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise InvalidRequest("the client was closed before this call had ended") from None
        except BaseException:
            if future.cancel():
                ended.wait(CANCEL_SECONDS)
            raise

    def stop(self) -> None:
        """Cancels what still runs, awaits `at_end`, and closes the loop. It may be called again."""
        self._is_closed = True
        self._running.stop()

    def _in_this_process(self) -> _Running:
        if self._is_closed:
            raise InvalidRequest("the client is closed: make a new one")
        if self._running.process != os.getpid():
            with self._starting:
                if self._running.process != os.getpid():  # no other thread was faster
                    self._running = _Running(self._at_end)
        if threading.current_thread() is self._running.thread:
            raise InvalidRequest("the client was called from its own loop; use RunPodVLLMService there")
        return self._running


class _Running:
    """One thread and its loop."""

    def __init__(self, at_end: Callable[[], Awaitable[None]]) -> None:
        self.process = os.getpid()
        self._at_end = at_end
        self._under_way: set[Future[Any]] = set()
        self._has_ended = False
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.thread = threading.Thread(target=self._serve, name="vllm_service client", daemon=True)
        self.thread.start()
        self._loop, self._end = self._started.result()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts the work in the loop. The future is cancelled if the loop ends first."""
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop was closed just now
            work.close()
            raise InvalidRequest("the client is closed: make a new one") from None
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        if self._has_ended:
            future.cancel()
        return future

    def stop(self) -> None:
        """Ends the loop, and waits for its thread. Does nothing after the end, and in a forked process."""
        if self.process == os.getpid() and self.thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self.thread.join()

    def _serve(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._live())
        finally:
            self._has_ended = True
            for future in self._under_way.copy():  # started too late for the loop to run it
                future.cancel()

    async def _live(self) -> None:
        end = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), end))
        try:
            await end.wait()
        finally:
            await self._at_end()


P = ParamSpec("P")


@raises_ours
class SyncIterator(Iterator[T], Generic[T]):
    """The items of an async stream for `for`. Closing it early ends the request."""

    def __init__(self, loop: LoopThread, source: AsyncGenerator[T] | TextStream) -> None:
        self._loop = loop
        self._source: Any = source

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        item: T
        found, item = self._loop.run(self._next())
        if not found:
            raise StopIteration
        return item

    def close(self) -> None:
        """Ends the request; the provider stops generating."""
        self._loop.run(self._source.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _next(self) -> tuple[bool, Any]:
        if getattr(self._source, "ag_running", False):
            raise InvalidRequest("the stream is being read already: one thread at a time can read it")
        async for item in self._source:
            return True, item
        return False, None


@raises_ours
class SyncTextStream(SyncIterator[str]):
    """TextStream for `for`."""

    def deltas(self) -> SyncIterator[Delta]:
        """Returns every part of the answer, as TextStream does."""
        return SyncIterator(self._loop, self._source.deltas())

    @property
    def answer(self) -> Answer:
        """Returns the whole answer. Raises InvalidRequest before the end of the stream."""
        answer: Answer = self._source.answer
        return answer


def _of_batch(
    method: Callable[Concatenate[BatchJob, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncBatchJob, P], T]:
    """Returns the method as a blocking call."""

    def call(self: SyncBatchJob, /, *args: P.args, **options: P.kwargs) -> T:
        return self.loop.run(method(self.batch, *args, **options))

    functools.update_wrapper(call, method)
    return call


@raises_ours
class SyncBatchJob:
    """BatchJob without `await`, with the same calls."""

    def __init__(self, loop: LoopThread, batch: BatchJob) -> None:
        self.loop = loop
        self.batch = batch
        self.id = batch.id

    add = _of_batch(BatchJob.add)
    finalize = _of_batch(BatchJob.finalize)
    status = _of_batch(BatchJob.status)
    wait = _of_batch(BatchJob.wait)
    cancel = _of_batch(BatchJob.cancel)
    rename = _of_batch(BatchJob.rename)
    remove = _of_batch(BatchJob.remove)

    def results(self, start: int = 0) -> SyncIterator[BatchResult]:
        """Iterates as BatchJob.results does. Raises ServiceError."""
        return SyncIterator(self.loop, self.batch.results(start))

    def requests(self, start: int = 0) -> SyncIterator[BatchResult]:
        """Iterates as BatchJob.requests does. Raises ServiceError."""
        return SyncIterator(self.loop, self.batch.requests(start))


def _called(
    method: Callable[Concatenate[RunPodVLLMService, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[RunPodVLLMServiceSync, P], T]:
    """Returns the method as a blocking call."""

    def call(self: RunPodVLLMServiceSync, /, *args: P.args, **options: P.kwargs) -> T:
        return self.loop.run(method(self.service, *args, **options))

    functools.update_wrapper(call, method)
    return call


def _computed(
    method: Callable[Concatenate[RunPodVLLMService, P], T],
) -> Callable[Concatenate[RunPodVLLMServiceSync, P], T]:
    """Returns the method, which awaits nothing, for the facade."""

    def call(self: RunPodVLLMServiceSync, /, *args: P.args, **options: P.kwargs) -> T:
        return method(self.service, *args, **options)

    functools.update_wrapper(call, method)
    return call


def _iterated(
    method: Callable[Concatenate[RunPodVLLMService, P], TextStream],
) -> Callable[Concatenate[RunPodVLLMServiceSync, P], SyncTextStream]:
    """Returns the method with its stream for `for`."""

    def call(self: RunPodVLLMServiceSync, /, *args: P.args, **options: P.kwargs) -> SyncTextStream:
        return SyncTextStream(self.loop, method(self.service, *args, **options))

    functools.update_wrapper(call, method)
    return call


@raises_ours
class RunPodVLLMServiceSync:
    """RunPodVLLMService without `await`, with the same arguments. Close it, or use `with`; a script's end does too."""

    @constructing(RunPodVLLMService)
    def __init__(self, service: RunPodVLLMService) -> None:
        self.service = service
        self.loop = LoopThread(self.service.close)
        self._finalizer = weakref.finalize(self, self.loop.stop)

    generate = _called(RunPodVLLMService.generate)
    generate_with_retry = _called(RunPodVLLMService.generate_with_retry)
    complete = _called(RunPodVLLMService.complete)
    chat = _called(RunPodVLLMService.chat)
    stream = _iterated(RunPodVLLMService.stream)
    stream_chat = _iterated(RunPodVLLMService.stream_chat)
    batch = _called(RunPodVLLMService.batch)
    batch_generate = _called(RunPodVLLMService.batch_generate)
    ensemble_generate = _called(RunPodVLLMService.ensemble_generate)
    submit = _called(RunPodVLLMService.submit)
    status = _called(RunPodVLLMService.status)
    wait = _called(RunPodVLLMService.wait)
    cancel = _called(RunPodVLLMService.cancel)
    retry = _called(RunPodVLLMService.retry)
    health = _called(RunPodVLLMService.health)

    list_batches = _called(RunPodVLLMService.list_batches)

    openai_input = _computed(RunPodVLLMService.openai_input)

    def create_batch(self, inputs: Iterable[Mapping[str, Any]] = ()) -> SyncBatchJob:
        """Makes a batch job with these inputs, as RunPodVLLMService does. Raises ServiceError."""
        return SyncBatchJob(self.loop, self.loop.run(self.service.create_batch(inputs)))

    def batch_job(self, batch_id: str) -> SyncBatchJob:
        """Returns the batch job of this id, as RunPodVLLMService does. Raises InvalidRequest."""
        return SyncBatchJob(self.loop, self.service.batch_job(batch_id))

    @functools.wraps(RunPodVLLMService.stream_job)
    def stream_job(self, job_id: str) -> SyncIterator[Any]:  # noqa: D102  the wrapped one's
        return SyncIterator(self.loop, self.service.stream_job(job_id))

    def select_model_by_task(self, task: str) -> str:
        """Returns the model for a task, as RunPodVLLMService does."""
        return self.service.select_model_by_task(task)

    def close(self) -> None:
        """Closes every connection, then the loop."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
