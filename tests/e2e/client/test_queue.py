"""Every call of the native queue, at a real vLLM."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest

from runpod_emulator.jobs.job import Status
from tests.e2e.client.test_generation import ASKED, FRANCE, LONG_TOKENS, PARIS, TOKENS
from tests.e2e.emulated import Endpoint
from vllm_service import JobStatus, RunPodVLLMService, errors

QUESTION = {"messages": ASKED, "sampling_params": {"temperature": 0, "max_tokens": 99}}
LONG = {"prompt": FRANCE, "sampling_params": {"max_tokens": LONG_TOKENS, "ignore_eos": True}}


def said(text: str) -> str:
    """The text in the chunks of a stream of chat events."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_a_job_is_submitted_and_waited_for(service: RunPodVLLMService) -> None:
    queued = await service.submit(QUESTION, execution_timeout_seconds=60, ttl_seconds=600)
    assert queued.status is JobStatus.IN_QUEUE
    job = await service.wait(queued.id, timeout_seconds=60)
    assert job.output["choices"][0]["message"]["content"] == PARIS
    assert (job.id, job.status) == (queued.id, JobStatus.COMPLETED)
    assert job.execution_ms is not None
    assert await service.status(queued.id) == job


async def test_a_job_streams_its_outputs(service: RunPodVLLMService) -> None:
    queued = await service.submit(QUESTION | {"stream": True})
    chunks = [chunk async for chunk in service.stream_job(queued.id)]
    assert said("".join(chunks)) == PARIS
    assert (await service.status(queued.id)).status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("job_input", "expected", "named"),
    [
        ({"prompt": FRANCE, "lora_adapter": "nobody"}, errors.NotFound, "nobody"),
        ({"prompt": FRANCE, "sampling_params": {"temperature": -1}}, errors.InvalidRequest, "temperature"),
        ({"prompt": ""}, errors.InvalidRequest, "prompt"),
    ],
    ids=["unknown model", "bad temperature", "no prompt"],
)
async def test_a_failed_job_is_the_error_the_engine_gave(
    service: RunPodVLLMService, job_input: dict[str, Any], expected: type[errors.ServiceError], named: str
) -> None:
    queued = await service.submit(job_input)
    with pytest.raises(expected, match=named) as caught:
        await service.wait(queued.id)
    assert (caught.value.request_id, caught.value.endpoint) == (queued.id, "ep")
    with pytest.raises(expected):
        async for _ in service.stream_job(queued.id):
            pass
    again = await service.retry(queued.id)
    assert again.id == queued.id
    with pytest.raises(expected):
        await service.wait(queued.id)


async def test_only_failed_jobs_can_be_retried(service: RunPodVLLMService) -> None:
    done = await service.wait((await service.submit(QUESTION)).id)
    with pytest.raises(errors.InvalidRequest, match="FAILED"):
        await service.retry(done.id)


async def test_a_job_that_never_was_is_not_found(service: RunPodVLLMService) -> None:
    for call in (service.status, service.wait, service.cancel, service.retry):
        with pytest.raises(errors.NotFound):
            await call("no/such job")


async def test_health_counts_jobs_and_workers(service: RunPodVLLMService) -> None:
    await service.wait((await service.submit(QUESTION)).id)
    health = await service.health()
    assert health.jobs["completed"] > 0
    assert health.workers["idle"] + health.workers["running"] == 1


async def test_a_cancelled_job_ends_its_waiter(endpoint: Endpoint, service: RunPodVLLMService) -> None:
    queued = await service.submit(LONG)
    waiter = asyncio.create_task(service.wait(queued.id))
    await asyncio.sleep(0)
    assert (await service.cancel(queued.id)).status is JobStatus.CANCELLED
    with pytest.raises(errors.ServiceError) as caught:
        await waiter
    assert caught.value.code == "JOB_CANCELLED_409"
    await endpoint.until_free()


async def test_a_wait_may_end_before_its_job_which_goes_on(endpoint: Endpoint, service: RunPodVLLMService) -> None:
    queued = await service.submit(LONG)
    with pytest.raises(errors.GatewayTimeout, match="goes on"):
        await service.wait(queued.id, timeout_seconds=0.01)
    assert not (await service.status(queued.id)).is_final
    await service.cancel(queued.id)
    await endpoint.until_free()


@pytest.mark.parametrize("is_stream", [False, True], ids=["waiting", "streaming"])
async def test_cancelling_the_task_cancels_the_job_and_frees_the_worker(
    endpoint: Endpoint, service: RunPodVLLMService, is_stream: bool
) -> None:
    before = await endpoint.measure(TOKENS)
    queued = await service.submit(LONG | {"stream": is_stream})

    async def read() -> None:
        async for _ in service.stream_job(queued.id):
            pass

    task = asyncio.create_task(read()) if is_stream else asyncio.create_task(service.wait(queued.id))
    await endpoint.until_measured(TOKENS, before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endpoint.job(queued.id).status is Status.CANCELLED
    await endpoint.until_free()
    assert await endpoint.measure(TOKENS) < before + LONG_TOKENS


async def test_leaving_a_jobs_stream_cancels_the_job(endpoint: Endpoint, service: RunPodVLLMService) -> None:
    queued = await service.submit(LONG | {"stream": True})
    async with aclosing(service.stream_job(queued.id)) as chunks:
        await anext(chunks)
    assert endpoint.job(queued.id).status is Status.CANCELLED
    await endpoint.until_free()
