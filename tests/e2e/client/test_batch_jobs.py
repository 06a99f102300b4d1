"""RunPod's batch jobs end to end: the example's program, the emulator, and a batch worker with real vLLM."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from examples.batch_jobs import main
from tests.e2e.client.conftest import MODEL
from tests.e2e.client.test_generation import ASKED, PARIS
from tests.e2e.emulated import API_KEY, Endpoint
from vllm_service import BatchState, RunPodVLLMService, RunPodVLLMServiceSync

QUESTION: str = ASKED[-1]["content"]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text(f"{QUESTION}\n" * 3)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["number"])


async def test_a_batch_is_answered_by_a_worker_of_its_own_and_each_answer_names_its_question(
    service: RunPodVLLMService, endpoint: Endpoint
) -> None:
    inputs = [service.openai_input(ASKED, temperature=0, key=f"row-{number}") for number in range(3)]
    bad = service.openai_input(ASKED, temperature=-1, key="bad")
    batch = await service.create_batch([*inputs, bad])
    assert (await batch.finalize()).state is BatchState.FINALIZED
    seen: list[tuple[int, int]] = []
    done = await batch.wait(timeout_seconds=120, progress=lambda ended, total: seen.append((ended, total)))
    assert (done.total, done.completed, done.failed, seen[-1]) == (4, 3, 1, (4, 4))
    results = [result async for result in batch.results()]
    assert {result.key: result.text for result in results[:3]} == dict.fromkeys(("row-0", "row-1", "row-2"), PARIS)
    assert "temperature" in (results[3].error_text or "")
    assert [result.position async for result in batch.results(start=2)] == [2, 3]
    assert [one.id for one in await service.list_batches()] == [batch.id]
    assert sum(worker.takes_batches for worker in endpoint.emulator.workers.values()) == 1


async def test_the_example_goes_on_with_the_batch_that_it_made(
    service: RunPodVLLMService, questions: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.jsonl"
    await main(service, questions, answers)
    made = len(await service.list_batches())
    found = lines(answers)
    assert [line["number"] for line in found] == ["0", "1", "2"]
    assert {line["answer"] for line in found} == {PARIS}
    answers.unlink()
    await main(service, questions, answers)
    assert (lines(answers), len(await service.list_batches())) == (found, made)


async def test_the_calls_without_await_do_the_same(endpoint: Endpoint) -> None:
    def run() -> list[str | None]:
        with RunPodVLLMServiceSync("ep", API_KEY, endpoint.emulator.openai_url, MODEL) as service:
            batch = service.create_batch([service.openai_input(ASKED, temperature=0)])
            batch.finalize()
            assert batch.wait(timeout_seconds=120).completed == 1
            assert service.batch_job(batch.id).status().is_done
            return [result.text for result in batch.results()]

    assert await asyncio.to_thread(run) == [PARIS]
