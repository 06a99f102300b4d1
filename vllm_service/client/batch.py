"""Batches: many prompts with limited concurrency, an answer or an error for each, in order, resumable from a file."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from vllm_service.client.batch_file import BatchFile, keys_of
from vllm_service.client.boundary import ours
from vllm_service.client.errors import BatchFailed
from vllm_service.client.payload import Payload
from vllm_service.client.progress import Progress, progress_of
from vllm_service.client.results import Answer, BatchItem
from vllm_service.errors import ConfigurationError, ServiceError

DEFAULT_CONCURRENT = 64

Answering = Callable[[Payload], Awaitable[Answer]]


async def answer_all(
    asks: Sequence[Payload | ServiceError],
    answer: Answering,
    *,
    concurrent: int = DEFAULT_CONCURRENT,
    file: Path | str | None = None,
    progress: bool | Progress = False,
) -> list[BatchItem]:
    """Returns one item for each request, in order. A ServiceError among `asks` becomes its item's error.

    Raises ConfigurationError for `concurrent` below 1, and for a file that cannot be read or written.
    """
    if concurrent < 1:
        raise ConfigurationError(f"concurrent: expected at least 1, got {concurrent}")
    with nullcontext() if file is None else BatchFile(file) as opened, progress_of(progress, "prompts") as report:
        batch = _Batch(asks, answer, opened, report)
        await batch.run(concurrent)
    return [item for item in batch.items if item is not None]


def texts(items: Iterable[BatchItem]) -> list[str]:
    """Returns the answers' texts, in order. Raises BatchFailed, with all items, if one has no answer."""
    items = list(items)
    found = [item.answer.text for item in items if item.answer is not None]
    if len(found) < len(items):
        raise BatchFailed(items)
    return found


class _Batch:
    def __init__(
        self, asks: Sequence[Payload | ServiceError], answer: Answering, file: BatchFile | None, report: Progress
    ) -> None:
        self.items: list[BatchItem | None] = [None] * len(asks)
        self._asks = asks
        self._keys = keys_of([ask if isinstance(ask, Payload) else None for ask in asks]) if file else [""] * len(asks)
        self._answer = answer
        self._file = file
        self._report = report
        self._done = 0

    async def run(self, concurrent: int) -> None:
        remaining = iter(range(len(self._asks)))

        async def caller() -> None:
            for index in remaining:
                self._end(await self._item(index))

        self._report(0, len(self._asks))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrent, len(self._asks))):
                    group.create_task(caller())
        except* Exception as failures:
            # The error as itself: a caller should not have to know of the task group.
            raise _first(failures) from None

    async def _item(self, index: int) -> BatchItem:
        ask = self._asks[index]
        if isinstance(ask, ServiceError):
            return BatchItem(index, error=ask)
        if self._file is not None and (known := self._file.answer(self._keys[index])):
            return BatchItem(index, answer=known, from_file=True)
        try:
            return BatchItem(index, answer=await self._answer(ask))
        except Exception as error:  # whatever it is, it must not cost the other answers
            return BatchItem(index, error=ours(error, "the prompt"))

    def _end(self, item: BatchItem) -> None:
        self.items[item.index] = item
        if self._file is not None and not item.from_file:
            self._file.write(self._keys[item.index], item)
        self._done += 1
        self._report(self._done, len(self._asks))


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
