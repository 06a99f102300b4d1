"""RunPod's native queue, for work that takes longer than a connection should: submit, status, wait, stream, cancel.

The first poll comes after a quarter of a second, later ones up to 5 s apart. All calls stay within the platform's rate
limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from vllm_service.client.boundary import raises_ours
from vllm_service.client.connection import Connection
from vllm_service.client.payload import encoded
from vllm_service.client.rate_gate import RateGate
from vllm_service.client.retry import retrying
from vllm_service.client.runpod.jobs import Job, read_chunks, read_job
from vllm_service.client.settings import RetryPolicy, seconds
from vllm_service.errors import ConfigurationError, GatewayTimeout, InvalidRequest, RateLimited, ServiceError
from vllm_service.runpod.health import EndpointHealth, health_of

log = logging.getLogger(__name__)

FIRST_POLL_SECONDS = 0.25
LONGEST_POLL_SECONDS = 5.0
POLL_GROWTH = 1.5
#: The time for the cancellation of a job whose caller has gone.
GIVE_UP_SECONDS = 10.0


class QueueApi:
    """The calls of one endpoint's job API, each within its operation's rate limit."""

    def __init__(self, connection: Connection, control_url: str | None, gate: RateGate) -> None:
        #: Names the endpoint in errors.
        self.endpoint = connection.endpoint
        self._connection = connection
        self._control_url = control_url
        self._gate = gate

    async def call(self, operation: str, method: str, path: str, content: bytes | None = None) -> Any:
        """Makes one call of `/{operation}{path}`, and returns its document. Raises ServiceError."""
        if self._control_url is None:
            raise ConfigurationError(
                "base_url: the native queue needs RunPod's .../v2/ENDPOINT_ID/openai/v1; this one is another server's"
            )
        async with self._gate.admitted(operation):
            return await self._connection.control(method, f"{self._control_url}/{operation}{path}", content)


@raises_ours
class JobQueue:
    """The jobs of one endpoint. Reads are retried after transient errors, a submission only after 429.

    A task that is cancelled while it waits for a job, or that closes its stream early, cancels the job.
    """

    def __init__(self, connection: Connection, control_url: str | None, gate: RateGate, retry: RetryPolicy) -> None:
        self._api = QueueApi(connection, control_url, gate)
        self._connection = connection
        self._retry = retry

    async def submit(
        self,
        job_input: Mapping[str, Any],
        *,
        webhook: str | None = None,
        execution_timeout_seconds: float | None = None,
        ttl_seconds: float | None = None,
        low_priority: bool = False,
    ) -> Job:
        """Queues a job; RunPod keeps its result for 30 minutes. Raises ServiceError.

        A submission whose response was lost is not repeated: the job may be in the queue, and would run twice.
        """
        policy = {
            "executionTimeout": _milliseconds(execution_timeout_seconds, "execution_timeout_seconds"),
            "ttl": _milliseconds(ttl_seconds, "ttl_seconds"),
            "lowPriority": low_priority or None,
        }
        encoded(job_input, "job_input")  # an error names the input's own part
        body: dict[str, Any] = {"input": dict(job_input)}
        if given := {name: value for name, value in policy.items() if value is not None}:
            body["policy"] = given
        if webhook is not None:
            body["webhook"] = webhook
        content = encoded(body, "body")

        async def attempt(_: int) -> Job:
            try:
                return await self._submit(content)
            except ServiceError as error:
                raise only_if_refused(error) from error.__cause__

        return await retrying(attempt, self._retry)

    async def status(self, job_id: str) -> Job:
        """Returns the job's state, with its output once it has one. Raises ServiceError, NotFound if it is unknown."""
        return read_job(await self._repeatable("GET", "status", job_id))

    async def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> Job:
        """Waits for the job to complete, and returns it. Raises the engine's error, JobCancelled or GatewayTimeout.

        timeout_seconds ends the wait, not the job; cancelling the waiting task ends both.
        """
        path_part(job_id, "job_id")
        if timeout_seconds is not None:
            seconds(timeout_seconds, "timeout_seconds", may_be_zero=True)
        async with self._cancelling(job_id):
            job = await self._until_final(job_id, timeout_seconds)
        if error := job.error(self._connection.endpoint):
            raise error
        return job

    async def stream_job(self, job_id: str) -> AsyncGenerator[Any]:
        """Yields each output of a streaming job as it comes; an OpenAI route's outputs are text of server-sent events.

        RunPod hands out every chunk once, so a lost response is an error and is not retried. Raises as `wait` does.
        """
        path_part(job_id, "job_id")
        async with self._cancelling(job_id):
            while True:
                document = await self._call("GET", "stream", job_id)
                job = read_job(document)
                chunks = read_chunks(document)
                for chunk in chunks:
                    yield chunk
                # The last chunks may come after the status is final.
                if job.is_final and not chunks:
                    break
        if error := job.error(self._connection.endpoint):
            raise error

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job that waits or runs; one that has ended stays unchanged. Raises ServiceError."""
        return read_job(await self._repeatable("POST", "cancel", job_id))

    async def retry(self, job_id: str) -> Job:
        """Queues a FAILED or TIMED_OUT job again under its own id. Raises ServiceError, InvalidRequest for others."""
        return read_job(await self._call("POST", "retry", job_id))

    async def health(self) -> EndpointHealth:
        """Returns the numbers of the endpoint's jobs and workers. Raises ServiceError."""
        return health_of(await self._repeatable("GET", "health"))

    async def _until_final(self, job_id: str, timeout_seconds: float | None) -> Job:
        started = time.monotonic()
        pause = FIRST_POLL_SECONDS
        while not (job := await self.status(job_id)).is_final:
            if timeout_seconds is not None:
                left = started + timeout_seconds - time.monotonic()
                if left <= 0:
                    raise GatewayTimeout(
                        f"job {job_id} had not ended after {timeout_seconds:g} s; it goes on: wait again, or cancel it"
                    )
                pause = min(pause, left)
            await asyncio.sleep(pause)
            pause = min(pause * POLL_GROWTH, LONGEST_POLL_SECONDS)
        return job

    @asynccontextmanager
    async def _cancelling(self, job_id: str) -> AsyncIterator[None]:
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            await asyncio.shield(self._give_up(job_id))
            raise

    async def _give_up(self, job_id: str) -> None:
        """Cancels the job. A failure is only logged, because the caller has gone already."""
        try:
            async with asyncio.timeout(GIVE_UP_SECONDS):
                await self.cancel(job_id)
        except (ServiceError, TimeoutError) as error:
            log.warning(
                "job %s could not be cancelled (%s): it may run on, and is billed", job_id, type(error).__name__
            )

    async def _submit(self, content: bytes) -> Job:
        """Queues the job. If the caller is cancelled meanwhile, the job is cancelled once its id is known."""
        sending = asyncio.ensure_future(self._api.call("run", "POST", "", content))
        try:
            return read_job(await asyncio.shield(sending))
        except asyncio.CancelledError:
            with contextlib.suppress(ServiceError):
                await self._give_up(read_job(await sending).id)
            raise

    async def _repeatable(self, method: str, operation: str, job_id: str | None = None) -> Any:
        return await retrying(lambda _: self._call(method, operation, job_id), self._retry, is_repeatable=True)

    async def _call(self, method: str, operation: str, job_id: str | None = None) -> Any:
        return await self._api.call(operation, method, "" if job_id is None else f"/{path_part(job_id, 'job_id')}")


def _milliseconds(value: float | None, name: str) -> int | None:
    return None if value is None else round(seconds(value, name) * 1000)


def path_part(identifier: str, name: str) -> str:
    """Returns an id as a part of a URL's path. Raises InvalidRequest for a text that cannot be one.

    name: of the parameter, for the error.
    """
    if not identifier.isascii() or not identifier.isprintable() or not identifier.strip(". "):
        raise InvalidRequest(f"{name}: expected an id as the platform gave it", param=name)
    return quote(identifier, safe="")


def only_if_refused(error: ServiceError) -> ServiceError:
    """Returns the error of a submission, which is repeated after 429 only: any other may have been taken."""
    if not isinstance(error, RateLimited):
        error.is_transient = False
    return error
