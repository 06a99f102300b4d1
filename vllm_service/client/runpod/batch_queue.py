"""The batches of one endpoint beside its queue: they are made, found again and listed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vllm_service.client.boundary import raises_ours
from vllm_service.client.retry import retrying
from vllm_service.client.runpod.batch_job import BatchJob
from vllm_service.client.runpod.batch_values import BatchSummary, read_batches, read_summary
from vllm_service.client.runpod.queue import JobQueue, only_if_refused
from vllm_service.errors import ServiceError


@raises_ours
class BatchQueue(JobQueue):
    """RunPod's batch jobs, for work that can wait for hours: they run on workers of their own, beside the queue's."""

    async def create_batch(self, inputs: Iterable[Mapping[str, Any]] = ()) -> BatchJob:
        """Makes a draft with these job inputs, and returns it; openai_input makes such inputs. Raises ServiceError.

        A creation whose answer was lost is not repeated: the draft may be there, runs nothing and costs nothing. If
        adding the inputs fails, the draft stays; `list_batches` finds it.
        """

        async def attempt(_: int) -> BatchSummary:
            try:
                return read_summary(await self._api.call("batch", "POST", "", b"[]"))
            except ServiceError as error:
                raise only_if_refused(error) from error.__cause__

        made = await retrying(attempt, self._retry)
        batch = BatchJob(self._api, self._retry, made.id, total=0)
        await batch.add(inputs)
        return batch

    def batch_job(self, batch_id: str) -> BatchJob:
        """Returns the batch of this id, without asking RunPod for it."""
        return BatchJob(self._api, self._retry, batch_id)

    async def list_batches(self) -> list[BatchSummary]:
        """Returns the endpoint's batches, the newest first. Raises ServiceError."""

        async def attempt(_: int) -> list[BatchSummary]:
            return read_batches(await self._api.call("batch", "GET", ""))

        return await retrying(attempt, self._retry, is_repeatable=True)
