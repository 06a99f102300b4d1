"""The sync facade from a plain script, from many threads, and from inside an event loop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from runpod_emulator.jobs.job import Status
from tests.e2e import process
from tests.e2e.client.conftest import MODEL
from tests.e2e.client.test_generation import ASKED, EXACT, FRANCE, LONG, PARIS
from tests.e2e.emulated import API_KEY, Endpoint
from vllm_service import RunPodVLLMServiceSync, errors

SCRIPT = """
from vllm_service import RunPodVLLMServiceSync

service = RunPodVLLMServiceSync(base_url={url!r})
exact = dict(temperature=0, max_tokens=99)
asked = [{{"role": "user", "content": {question!r}}}]
said = [
    service.generate({question!r}, **exact),
    service.generate_with_retry({question!r}, **exact),
    service.complete({question!r}, **exact).text,
    service.chat(asked, **exact).text,
    "".join(service.stream({question!r}, **exact)),
    "".join(service.stream_chat(asked, **exact)),
    *service.batch_generate([{question!r}] * 2, **exact),
    service.batch([{question!r}], **exact)[0].answer.text,
    service.ensemble_generate({question!r}, [service.select_model_by_task("chat")], **exact).text,
]
job = service.submit({{"messages": asked, "sampling_params": exact}})
said.append(service.wait(job.id).output["choices"][0]["message"]["content"])
assert service.status(job.id).is_final and service.health().workers
assert service.cancel(job.id).status == "COMPLETED"
streamed = service.submit({{"messages": asked, "sampling_params": exact, "stream": True}})
assert "[DONE]" in "".join(service.stream_job(streamed.id))
print(*(text.strip() for text in said), sep="\\n")
{end}
"""


@pytest.mark.parametrize("end", ["service.close()", "pass  # the script's end closes it"], ids=["closed", "forgotten"])
async def test_a_plain_script_makes_every_call_and_ends_cleanly(endpoint: Endpoint, end: str) -> None:
    code = SCRIPT.format(url=endpoint.emulator.openai_url, question=FRANCE, end=end)
    variables = {"RUNPOD_API_KEY": API_KEY, "RUNPOD_DEFAULT_MODEL": MODEL}
    ended = await process.run("-X", "dev", "-W", "error", "-c", code, **variables)
    assert (ended.code, ended.complaints) == (0, [])
    assert ended.stdout.splitlines() == [PARIS] * 11


async def test_it_works_within_a_running_loop_and_closes_twice(endpoint: Endpoint) -> None:
    """As in a notebook. The emulator shares this loop, so its worker is asked from a thread."""
    url = endpoint.emulator.openai_url

    def work() -> str:
        with RunPodVLLMServiceSync(api_key=API_KEY, base_url=url, default_model=MODEL) as service:
            with ThreadPoolExecutor(8) as threads:
                said = list(threads.map(lambda _: service.chat(ASKED, **EXACT).text, range(16)))
            assert said == [PARIS] * 16
            with service.stream(FRANCE, **LONG) as stream:
                next(stream)
                with pytest.raises(errors.InvalidRequest):
                    _ = stream.answer
        service.close()
        with pytest.raises(errors.InvalidRequest, match="closed"):
            service.generate(FRANCE)
        return said[0]

    import asyncio

    ended = len(endpoint.ended)
    assert await asyncio.to_thread(work) == PARIS
    await endpoint.until_free()
    assert endpoint.ended[-1].status is Status.CANCELLED
    assert len(endpoint.ended) == ended + 17
