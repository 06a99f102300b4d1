"""RunPod's batch jobs: many requests as one batch, run by workers of their own, within hours rather than seconds.

A batch is a draft until it is finalized. Nothing runs before, and nothing can be added after. It belongs to the
endpoint, not to this process: keep its id, and `batch_job(id)` goes on with it after a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from vllm_service.client.boundary import raises_ours
from vllm_service.client.errors import JobCancelled, at_endpoint
from vllm_service.client.payload import encoded
from vllm_service.client.progress import Progress, progress_of
from vllm_service.client.retry import retrying
from vllm_service.client.runpod.batch_values import (
    MAX_RESULTS,
    BatchResult,
    BatchState,
    BatchSummary,
    Call,
    ResultPage,
    calls_for,
    read_page,
    read_summary,
)
from vllm_service.client.runpod.queue import QueueApi, path_part
from vllm_service.client.settings import RetryPolicy, seconds
from vllm_service.errors import GatewayTimeout, InvalidRequest, ServiceError, UpstreamFailed

FIRST_POLL_SECONDS = 1.0
LONGEST_POLL_SECONDS = 30.0
POLL_GROWTH = 1.5
#: Results of one page.
PAGE_RESULTS = 100


@raises_ours
class BatchJob:
    """One batch of an endpoint. Made by RunPodVLLMService: create_batch, batch_job."""

    def __init__(self, api: QueueApi, retry: RetryPolicy, batch_id: str, total: int | None = None) -> None:
        """total: the requests that it has, where they are known."""
        self.id = batch_id
        self._api = api
        self._retry = retry
        self._path = f"/{path_part(batch_id, 'batch_id')}"
        self._total = total
        self._adding = asyncio.Lock()

    async def add(self, inputs: Iterable[Mapping[str, Any]]) -> int:
        """Adds a request for each job input, in calls of up to 10 MiB, and returns how many there are in the batch now.

        openai_input makes such inputs. If the answer to a call is lost, the batch's total says whether it arrived, so
        nothing is added twice; that needs that nobody else adds to this batch meanwhile. Raises ServiceError; what was
        added before the error stays in the batch.
        """
        async with self._adding:
            total = self._total if self._total is not None else await self._known_total()
            for call in calls_for(inputs):
                self._total = None  # a call that ends without an answer may have arrived: the next one asks first
                total = self._total = await self._add(call, total)
            return total

    async def finalize(self) -> BatchSummary:
        """Locks the batch, so that it runs as soon as RunPod has workers for it. Raises ServiceError."""

        async def attempt(number: int) -> BatchSummary:
            # An answer that was lost may have been a success, and a second call would be refused.
            if number > 1 and (now := await self._summary()).state is not BatchState.DRAFT:
                return now
            return read_summary(await self._call("POST", f"{self._path}/finalize"))

        return await retrying(attempt, self._retry, is_repeatable=True)

    async def status(self) -> BatchSummary:
        """Returns the batch's state and numbers. Raises ServiceError, NotFound if it is unknown."""
        return await retrying(lambda _: self._summary(), self._retry, is_repeatable=True)

    async def wait(self, *, timeout_seconds: float | None = None, progress: bool | Progress = False) -> BatchSummary:
        """Waits until every request has ended, and returns the numbers; single requests may have failed.

        progress: True for a bar (needs rich), or a function of (done, total). timeout_seconds ends the wait with
        GatewayTimeout; the batch goes on then, as it does when the waiting task is cancelled. Raises JobCancelled,
        UpstreamFailed for a batch that failed as a whole, InvalidRequest for a draft.
        """
        if timeout_seconds is not None:
            seconds(timeout_seconds, "timeout_seconds", may_be_zero=True)
        started = time.monotonic()
        pause = FIRST_POLL_SECONDS
        with progress_of(progress, "batch") as report:
            while not (now := await self.status()).is_done:
                if now.state is BatchState.DRAFT:
                    raise InvalidRequest(f"batch {self.id} is a draft, so it does not run: finalize it first")
                if now.total is None:
                    raise self._without_total()
                report(now.done, now.total)
                if timeout_seconds is not None:
                    left = started + timeout_seconds - time.monotonic()
                    if left <= 0:
                        raise GatewayTimeout(
                            f"batch {self.id}: {now.done} of {now.total} requests had ended after {timeout_seconds:g} "
                            "s; it goes on: wait again, or cancel it"
                        )
                    pause = min(pause, left)
                await asyncio.sleep(pause)
                pause = min(pause * POLL_GROWTH, LONGEST_POLL_SECONDS)
            report(now.done, now.total or 0)
        self._raise_unless_run(now)
        return now

    async def results(self, start: int = 0) -> AsyncGenerator[BatchResult]:
        """Yields the requests that have ended, with their outputs or errors, from place `start` of the list on.

        Pages are read as they are needed and again after transient errors; no request is yielded twice. To go on after
        an interruption: `results(start=last.position + 1)`. The order is the platform's, and holds once the batch is
        done. Raises ServiceError.
        """
        async with aclosing(self.requests(start)) as requests:
            async for request in requests:
                if request.is_final:
                    yield request

    async def requests(self, start: int = 0) -> AsyncGenerator[BatchResult]:
        """Yields every request as `results` does, also those of a draft and those that wait or run."""
        if start < 0:
            raise InvalidRequest(f"start: expected 0 or more, got {start}", param="start")
        seen: set[str] = set()
        offset = start
        has_more = True
        while has_more:
            page = await self._page(offset)
            fresh = [request for request in page.results if request.id not in seen]
            if (page.has_more and not fresh) or offset > MAX_RESULTS:
                raise at_endpoint(
                    UpstreamFailed(f"the list of batch {self.id} does not end: {len(seen)} requests have been read"),
                    self._api.endpoint,
                )
            seen.update(request.id for request in fresh)
            for request in fresh:
                yield request
            offset += len(page.results)
            has_more = page.has_more

    async def cancel(self) -> BatchSummary:
        """Cancels what still waits; what runs is finished and billed. Raises ServiceError."""

        async def attempt(_: int) -> BatchSummary:
            return read_summary(await self._call("POST", f"{self._path}/cancel"))

        return await retrying(attempt, self._retry, is_repeatable=True)

    async def rename(self, name: str) -> None:
        """Sets the name that RunPod's console shows. Raises ServiceError."""
        content = encoded({"name": name}, "name")

        async def attempt(_: int) -> None:
            await self._call("PUT", self._path, content)

        await retrying(attempt, self._retry, is_repeatable=True)

    async def remove(self, request_id: str) -> None:
        """Removes a request from a draft, by its id in `requests`. Raises ServiceError."""
        path = f"{self._path}/requests/{path_part(request_id, 'request_id')}"
        async with self._adding:
            self._total = None
            await self._call("DELETE", path)

    async def _add(self, call: Call, before: int) -> int:
        """Adds one call's requests and returns the total after it."""
        after = before + call.requests

        async def attempt(number: int) -> None:
            if number > 1 and await self._arrived(before, after):
                return
            await self._call("POST", f"{self._path}/requests", call.content)

        await retrying(attempt, self._retry, is_repeatable=True)
        return after

    async def _arrived(self, before: int, after: int) -> bool:
        """Returns whether a call whose answer was lost has been carried out, by the batch's total."""
        total = await self._known_total()
        if total not in (before, after):
            raise at_endpoint(
                UpstreamFailed(
                    f"batch {self.id} has {total} requests where {before} or {after} were expected: another caller "
                    "adds to it, so it is unknown whether the last call arrived; compare its list with your requests"
                ),
                self._api.endpoint,
            )
        return total == after

    async def _known_total(self) -> int:
        summary = await self.status()
        if summary.total is None:
            raise self._without_total()
        return summary.total

    def _without_total(self) -> ServiceError:
        text = f"batch {self.id}: its summary has no requestTotal, so its end cannot be seen"
        return at_endpoint(UpstreamFailed(text), self._api.endpoint)

    async def _call(self, method: str, path: str, content: bytes | None = None) -> Any:
        return await self._api.call("batch", method, path, content)

    async def _summary(self) -> BatchSummary:
        return read_summary(await self._call("GET", self._path))

    async def _page(self, offset: int) -> ResultPage:
        path = f"{self._path}/requests?offset={offset}&limit={PAGE_RESULTS}"

        async def attempt(_: int) -> ResultPage:
            return read_page(await self._call("GET", path), offset)

        return await retrying(attempt, self._retry, is_repeatable=True)

    def _raise_unless_run(self, now: BatchSummary) -> None:
        if now.state is BatchState.CANCELLED:
            raise at_endpoint(
                JobCancelled(f"batch {self.id} was cancelled; {now.done} of {now.total} requests have results"),
                self._api.endpoint,
            )
        if now.state is BatchState.FAILED:
            raise at_endpoint(
                UpstreamFailed(
                    f"batch {self.id} failed as a whole; {now.done} of {now.total} requests have ended. "
                    "RunPod's console says why; what ended is in results()"
                ),
                self._api.endpoint,
            )
