"""RunPodVLLMServiceSync: the same calls for code without an event loop. Any number of threads may share one."""

from __future__ import annotations

import functools
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from vllm_service.client.loop_thread import LoopThread
from vllm_service.client.results import Answer
from vllm_service.client.runpod.service import RunPodVLLMService
from vllm_service.client.streams import TextStream
from vllm_service.client.text_calls import constructing
from vllm_service.errors import InvalidRequest

P = ParamSpec("P")
T = TypeVar("T")


class SyncIterator(Iterator[T], Generic[T]):
    """What an async stream gives, one by one; leaving it early ends the request."""

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
        """Leaves the stream; the provider stops generating."""
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


class SyncTextStream(SyncIterator[str]):
    """TextStream for `for`."""

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises InvalidRequest while the stream has not been read to its end."""
        answer: Answer = self._source.answer
        return answer


def _called(
    method: Callable[Concatenate[RunPodVLLMService, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[RunPodVLLMServiceSync, P], T]:
    """The method, waited for."""

    def call(self: RunPodVLLMServiceSync, /, *args: P.args, **options: P.kwargs) -> T:
        return self.loop.run(method(self.service, *args, **options))

    functools.update_wrapper(call, method)
    return call


def _iterated(
    method: Callable[Concatenate[RunPodVLLMService, P], TextStream],
) -> Callable[Concatenate[RunPodVLLMServiceSync, P], SyncTextStream]:
    """The method's stream, for `for`."""

    def call(self: RunPodVLLMServiceSync, /, *args: P.args, **options: P.kwargs) -> SyncTextStream:
        return SyncTextStream(self.loop, method(self.service, *args, **options))

    functools.update_wrapper(call, method)
    return call


class RunPodVLLMServiceSync:
    """RunPodVLLMService without `await`; takes what it takes. Close it, or use `with`; a script's end closes it too."""

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

    @functools.wraps(RunPodVLLMService.stream_job)
    def stream_job(self, job_id: str) -> SyncIterator[Any]:  # noqa: D102  the wrapped one's
        return SyncIterator(self.loop, self.service.stream_job(job_id))

    def select_model_by_task(self, task: str) -> str:
        """See RunPodVLLMService."""
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
