"""What the simulator is told of the worker: measured on this machine, just before the trace is played."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.compressed_trace.calls import Answer, Caller
from benchmarks.compressed_trace.stage import SLOTS, Endpoint, emulated
from vllm_service.routing.profiles import EndpointProfile

STARTS = 3  # the first one reads files into the page cache, and is not counted
PROMPTS = (100, 300, 600, 900, 1200)
BATCHES = (1, 2, 4, 8)
ANSWER_TOKENS = 64
# The answer takes longer than the prompts: it is disturbed by all of them. Several times: the machine has other work.
DISTURBED_TOKENS, DISTURBING, REPEATED = 500, (1000, 1000, 1000, 1000), 3


@dataclass(frozen=True)
class Physics:
    """Of one worker, in seconds and tokens. idle_seconds: billed after its last job, its stop included."""

    cold_start_seconds: float
    idle_seconds: float
    overhead_seconds: float
    prefill_tokens_per_second: float
    decode_seconds: float
    decode_seconds_per_batch: float
    prefill_share: float

    @property
    def profile(self) -> EndpointProfile:
        """As router and simulator take it."""
        return EndpointProfile(
            prefill_tokens_per_second=self.prefill_tokens_per_second,
            decode_seconds=self.decode_seconds,
            decode_seconds_per_batch=self.decode_seconds_per_batch,
            prefill_share=self.prefill_share,
            slots=SLOTS,
            cold_start_seconds=self.cold_start_seconds,
            idle_timeout_seconds=self.idle_seconds,
            max_workers=1,
            overhead_seconds=self.overhead_seconds,
        )

    def to_json(self) -> dict[str, float]:
        """Rounded to a tenth of a millisecond."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


async def measured(say: Callable[[str], object], logs: Path, starts: int = STARTS) -> Physics:
    """Starts a worker again and again, asks it without a gateway, and lets it go each time."""
    colds, tails = [], []
    async with emulated(logs=logs) as endpoint:
        caller = Caller(endpoint.emulator.openai_url)
        for number in range(starts):
            say(f"calibration: start {number + 1} of {starts}")
            await _asked(caller, 16, 4)
            if number == starts - 1:
                say("calibration: speeds")
                overhead, prefill = await _reading(caller)
                decode, per_batch = await _answering(caller)
                share = await _disturbed(caller, prefill)
            left_alone_at = time.monotonic()
            await endpoint.until_no_worker()
            cold, stopped_at = _life(endpoint)
            colds.append(cold)
            tails.append(stopped_at - left_alone_at)
        await caller.close()
    return Physics(
        cold_start_seconds=statistics.fmean(colds[1:] or colds),
        idle_seconds=statistics.fmean(tails),
        overhead_seconds=overhead,
        prefill_tokens_per_second=prefill,
        decode_seconds=decode,
        decode_seconds_per_batch=per_batch,
        prefill_share=share,
    )


def _life(endpoint: Endpoint) -> tuple[float, float]:
    """Seconds that the last worker took to be ready, and when it had stopped."""
    meter = list(endpoint.emulator.workers.values())[-1].meter
    assert meter.ready_at is not None
    assert meter.stopped_at is not None
    return meter.ready_at - meter.started_at, meter.stopped_at


async def _asked(caller: Caller, prompt_tokens: int, completion_tokens: int) -> Answer:
    answer = await caller.ask(prompt_tokens, completion_tokens)
    if answer.error is not None:
        raise RuntimeError(f"the worker cannot be calibrated: {answer.error}")
    return answer


async def _reading(caller: Caller) -> tuple[float, float]:
    """Seconds before the first token of an empty prompt, and prompt tokens per second."""
    lengths, seconds = [], []
    for prompt in PROMPTS * 3:
        answer = await _asked(caller, prompt, 2)
        lengths.append(prompt)
        seconds.append(answer.first_token_at - answer.sent_at)
    slope, intercept = np.polyfit(lengths, seconds, 1)
    return max(0.0, float(intercept)), 1.0 / max(1e-6, float(slope))


async def _answering(caller: Caller) -> tuple[float, float]:
    """Seconds per token: of one alone, less what each further answer adds; and what each adds."""
    seconds = []
    for batch in BATCHES:
        answers = await asyncio.gather(*(_asked(caller, 16, ANSWER_TOKENS) for _ in range(batch)))
        seconds.append(statistics.fmean(answer.token_seconds for answer in answers))
    slope, intercept = np.polyfit(BATCHES, seconds, 1)
    return max(1e-4, float(intercept)), max(0.0, float(slope))


async def _disturbed(caller: Caller, prefill_tokens_per_second: float) -> float:
    """What a prompt that is being read takes from an answer: 0 nothing, 1 all; a profile's limit is below 1."""
    alone, disturbed = [], []
    for _ in range(REPEATED):
        alone.append(_answering_seconds(await _asked(caller, 16, DISTURBED_TOKENS)))
        answer = asyncio.create_task(_asked(caller, 16, DISTURBED_TOKENS))
        await asyncio.sleep(0.2)  # it has begun
        for prompt in DISTURBING:
            await _asked(caller, prompt, 1)
        disturbed.append(_answering_seconds(await answer))
    lost = statistics.median(disturbed) - statistics.median(alone)
    return min(0.99, max(0.0, lost * prefill_tokens_per_second / sum(DISTURBING)))


def _answering_seconds(answer: Answer) -> float:
    return answer.ended_at - answer.first_token_at
