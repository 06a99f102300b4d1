"""RunPod as the job loop sees it, in memory: a queue, what was posted, and faults on request."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

from handler.queue.platform import PostRejected

Job = dict[str, Any]


class FakePlatform:
    """`failing_takes` and `failing_posts` first calls raise. Every change wakes whoever waits for one.

    Results and pieces that are longer than the largest are rejected. Results are taken once `takes_results` is set.
    """

    def __init__(
        self,
        failing_takes: int = 0,
        failing_posts: int = 0,
        largest_result: int | None = None,
        largest_piece: int | None = None,
    ) -> None:
        self.largest_result = largest_result
        self.largest_piece = largest_piece
        self.takes_results = asyncio.Event()
        self.takes_results.set()
        self.offered: set[str] = set()
        self.answer_takes_with: Any = None
        self.chunks: dict[str, list[Any]] = defaultdict(list)
        self.results: dict[str, dict[str, Any]] = {}
        self.results_posted: Counter[str] = Counter()
        self.streamed: set[str] = set()
        self.in_progress: set[str] = set()
        self.taken: list[str] = []
        self.stops: list[str] = []
        self._queue: list[Job] = []
        self._failing_takes, self._failing_posts = failing_takes, failing_posts
        self._polling = 0
        self._changed = asyncio.Condition()

    @property
    def waiting(self) -> list[str]:
        return [job["id"] for job in self._queue]

    def submit(self, job_id: str, job_input: object) -> None:
        self.deliver({"id": job_id, "input": job_input})

    def deliver(self, job: Any) -> None:
        self._queue.append(job)
        self._wake()

    def fail_next(self, *, takes: int = 0, posts: int = 0) -> None:
        self._failing_takes += takes
        self._failing_posts += posts

    def stop(self, job_id: str) -> None:
        self.stops.append(job_id)
        self._wake()

    async def take(self, count: int) -> list[Job]:
        assert count > 0
        if self._failing_takes:
            self._failing_takes -= 1
            raise ConnectionError("the platform is not there")
        self._polling += 1
        try:
            await self._until(lambda: bool(self._queue))
        finally:
            self._polling -= 1
            self._wake()
        if self.answer_takes_with is not None:
            return self.answer_takes_with  # type: ignore[no-any-return]
        taken, self._queue = self._queue[:count], self._queue[count:]
        self.taken.extend(job["id"] for job in taken if isinstance(job, dict) and "id" in job)
        return taken

    async def stop_signals(self) -> list[str]:
        await self._until(lambda: bool(self.stops))
        stops, self.stops = self.stops, []
        return stops

    async def post_stream(self, job: Job, output: Any) -> None:
        self._fail_perhaps()
        if self.largest_piece is not None and len(output) > self.largest_piece:
            raise PostRejected("HTTP 413")
        self.chunks[job["id"]].append(output)
        self._wake()

    async def post_result(self, job: Job, result: dict[str, Any], *, is_stream: bool) -> None:
        self._fail_perhaps()
        self.offered.add(job["id"])
        self._wake()
        await self.takes_results.wait()
        if self.largest_result is not None and len(str(result)) > self.largest_result:
            raise PostRejected("HTTP 413")
        self.results[job["id"]] = result
        self.results_posted[job["id"]] += 1
        if is_stream:
            self.streamed.add(job["id"])
        self._wake()

    def started(self, job: Job) -> None:
        self.in_progress.add(job["id"])

    def finished(self, job: Job) -> None:
        self.in_progress.discard(job["id"])

    async def result(self, job_id: str) -> dict[str, Any]:
        await self._until(lambda: job_id in self.results)
        return self.results[job_id]

    async def chunk(self, job_id: str) -> Any:
        await self._until(lambda: bool(self.chunks[job_id]))
        return self.chunks[job_id][0]

    async def until_offered(self, job_id: str) -> None:
        await self._until(lambda: job_id in self.offered)

    async def until_taken(self, *job_ids: str) -> None:
        await self._until(lambda: set(job_ids) <= set(self.taken))

    async def until_polling_stops(self) -> None:
        await self._until(lambda: self._polling == 0)

    def _fail_perhaps(self) -> None:
        if self._failing_posts:
            self._failing_posts -= 1
            raise ConnectionError("the post was dropped")

    async def _until(self, condition: Any) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(condition)

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._notifying = asyncio.get_running_loop().create_task(notify())
