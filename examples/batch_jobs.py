"""A file of questions as a RunPod batch job: made, finalized, waited for, read. It may be stopped and started again.

RUNPOD_VLLM_ENDPOINT_ID=... RUNPOD_API_KEY=... RUNPOD_DEFAULT_MODEL=... \
    python -m examples.batch_jobs questions.txt answers.jsonl
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from vllm_service import BatchJob, RunPodVLLMService


async def main(service: RunPodVLLMService, questions: Path, answers: Path) -> None:
    """Writes one JSON line for each line of `questions`, with its number, and its answer or error."""
    batch = await _batch(service, questions, answers.with_suffix(".batch"))
    done = await batch.wait(progress=True)
    print(f"{done.completed} answered, {done.failed} failed")
    found = [result async for result in batch.results()]
    lines = [{"number": result.key, "answer": result.text, "error": result.error_text} for result in found]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    await asyncio.to_thread(answers.write_text, text)


async def _batch(service: RunPodVLLMService, questions: Path, note: Path) -> BatchJob:
    """Returns the batch whose id is in the note, or makes it: RunPod runs it on while this program does not."""
    if made := await asyncio.to_thread(_read, note):
        return service.batch_job(made)
    lines = (await asyncio.to_thread(_read, questions)).splitlines()
    conversations = ([{"role": "user", "content": line}] for line in lines)
    batch = await service.create_batch(
        service.openai_input(messages, temperature=0, key=str(number)) for number, messages in enumerate(conversations)
    )
    await batch.finalize()
    await asyncio.to_thread(note.write_text, batch.id)
    return batch


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def _from_the_command_line() -> None:
    async with RunPodVLLMService() as service:
        await main(service, Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    asyncio.run(_from_the_command_line())
