"""The parts of the runpod SDK that the job loop stands on. This is the only module that imports runpod.

tests/contract/test_runpod_contract.py checks the pinned SDK for them. Where a part is missing, `SdkPlatform` raises
SdkMoved, and the worker falls back to the SDK's own loop (`serve_with_sdk_loop`).
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import multiprocessing
import signal
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL

from handler.metrics import WorkerMetrics
from handler.queue.platform import Job, PostRejected
from handler.queue.post_connections import NeverSent, PostConnections
from handler.settings import export
from handler.start import children

logger = logging.getLogger(__name__)

Handler = Callable[[Job], AsyncGenerator[Any, None]]
SdkLoop = Callable[[Handler, Callable[[int], int]], None]

# At DEBUG, its default, the SDK writes every chunk of every answer to the log, so no level here maps to it.
SDK_LOG_LEVELS = {"DEBUG": "INFO", "INFO": "WARN", "WARNING": "WARN", "ERROR": "ERROR"}
# vLLM checks the GPU itself; the SDK's check would open CUDA in this process, which then could not be forked any more.
SDK_ENVIRONMENT = {"RUNPOD_SKIP_GPU_CHECK": "true"}
CONNECT_PAUSES_SECONDS = (0.1, 0.4, 1.6)
PASSING_STATUSES = frozenset({408, 425, 429})  # worth another try; any other 4xx is RunPod's last word


class SdkMoved(ImportError):
    """The installed runpod SDK lacks a part that the job loop uses."""


def configure(log_level: str) -> None:
    """Sets the SDK's log level. It must run before runpod is first imported, which reads the level then."""
    export({"RUNPOD_DEBUG_LEVEL": SDK_LOG_LEVELS[log_level]} | SDK_ENVIRONMENT)


class SdkPlatform:
    """The `Platform` of a RunPod worker. An async context: the HTTP session and the heartbeat live inside."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics
        try:
            from runpod.http_client import AsyncClientSession, TooManyRequests
            from runpod.serverless.modules import rp_fitness, rp_http, rp_job
            from runpod.serverless.modules.rp_ping import Heartbeat
            from runpod.serverless.modules.worker_state import JobsProgress, PingJobMirror

            self._done_url, self._stream_url = rp_http.JOB_DONE_URL, rp_http.JOB_STREAM_URL
            self._get_job, self._get_stop_signals = rp_job.get_job, rp_job.get_stop_signals
            self._has_stop_channel: bool = rp_job._job_stop_url() is not None
            self._check_fitness = rp_fitness.run_fitness_checks
        except (ImportError, AttributeError) as error:
            raise SdkMoved(f"the runpod SDK has moved a part that the job loop uses: {error}") from error
        self._open_session = AsyncClientSession
        self._too_many_requests: type[Exception] = TooManyRequests
        self._in_progress = JobsProgress()
        self._mirror = PingJobMirror()
        self._ping_loop: Callable[[Any], None] = Heartbeat.process_loop
        self._heartbeat: multiprocessing.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._targets = {url: URL(url).raw_path_qs for url in (self._stream_url, self._done_url)}
        self._posts: dict[str, PostConnections] = {}

    async def __aenter__(self) -> Self:
        await self._check_fitness()
        self._in_progress.set_mirror(self._mirror)
        # A killed worker's heartbeat would keep the worker's jobs from being given to another.
        children.end_with_this_process()
        self._heartbeat = multiprocessing.get_context("fork").Process(  # type: ignore[assignment]
            target=_ping, args=(self._ping_loop, self._mirror), daemon=True
        )
        if self._heartbeat:
            self._heartbeat.start()
            # Where SystemExit skips __aexit__, multiprocessing sends the SIGTERM that it ignores, and waits for ever.
            atexit.register(self._heartbeat.kill)
        self._session = self._open_session()
        headers = {name: self._session.headers[name] for name in ("Authorization", "User-Agent")}
        self._posts = {url: PostConnections(url, headers) for url in self._targets}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connections in self._posts.values():
            connections.close()
        if self._session:
            await self._session.close()
        if self._heartbeat:
            self._heartbeat.kill()
            self._heartbeat.join()
            atexit.unregister(self._heartbeat.kill)

    async def take(self, count: int) -> list[Job]:
        """Waits for jobs and returns at most `count`, or none. Raises OSError and the like."""
        try:
            jobs: list[Job] | None = await self._get_job(self._session, count)
        except self._too_many_requests as error:
            raise RateLimited("RunPod answered with HTTP 429: the worker takes jobs too fast") from error
        return jobs or []

    async def stop_signals(self) -> list[str]:
        """Waits for the ids of jobs that are to be stopped; for ever where there is no stop channel."""
        if not self._has_stop_channel:
            await asyncio.get_running_loop().create_future()
        signals: list[str] = await self._get_stop_signals(self._session)
        return signals

    def started(self, job: Job) -> None:
        """Makes the heartbeat name the job as this worker's."""
        self._in_progress.add(job["id"])

    def finished(self, job: Job) -> None:
        """Takes the job out of the heartbeat."""
        self._in_progress.remove(job["id"])

    async def post_stream(self, job: Job, text: str) -> None:
        """Posts a piece of a stream.

        Raises ConnectionError or TimeoutError where the piece may or may not have arrived. Only a piece that never left
        is posted again: RunPod would deliver a repeated one as new.
        """
        body = _json_bytes({"output": text})
        for pause_seconds in CONNECT_PAUSES_SECONDS:
            try:
                await self._post(self._stream_url, job, body, is_stream=False)
                break
            except NeverSent:
                await asyncio.sleep(pause_seconds)
        else:
            await self._post(self._stream_url, job, body, is_stream=False)
        self._metrics.posted("stream", len(body), len(text.encode()))

    async def post_result(self, job: Job, result: dict[str, Any], *, is_stream: bool) -> None:
        """Posts the end of a job; raises ConnectionError or TimeoutError. Of two posts RunPod keeps the first."""
        body = _json_bytes(result)
        await self._post(self._done_url, job, body, is_stream=is_stream)
        self._metrics.posted("result", len(body))

    async def _post(self, url: str, job: Job, body: bytes, *, is_stream: bool) -> None:
        """Posts a body; raises PostRejected, ConnectionError or TimeoutError."""
        # The SDK's client takes most of the worker's CPU, and all jobs share its X-Request-ID.
        job_id = quote(job["id"], safe="")
        target = self._targets[url].replace("$ID", job_id) + f"&isStream={'true' if is_stream else 'false'}"
        status = await self._posts[url].post(target, body, f"X-Request-ID: {job_id}\r\n")
        if status >= 300:
            raise _refusal(status, body) or ConnectionError(f"RunPod answered with HTTP {status}")


def _json_bytes(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _refusal(status: int, body: bytes) -> PostRejected | None:
    """Returns an error for a status that no further try would change, None for one that may pass."""
    if status < 400 or status >= 500 or status in PASSING_STATUSES:
        return None
    return PostRejected(f"HTTP {status} for {len(body)} bytes")


class RateLimited(OSError):
    """RunPod answered 429 to a request for jobs."""


def _ping(ping_loop: Callable[[Any], None], mirror: Any) -> None:
    """Runs the SDK's heartbeat, until it is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a worker that drains still has jobs to vouch for
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ping_loop(mirror)


def serve_with_sdk_loop(handle: Handler, concurrency_modifier: Callable[[int], int]) -> None:
    """Runs the SDK's own loop, until the platform stops the worker."""
    import runpod

    runpod.serverless.start(
        {"handler": handle, "concurrency_modifier": concurrency_modifier, "return_aggregate_stream": True}
    )
