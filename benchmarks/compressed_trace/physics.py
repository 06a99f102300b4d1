"""The worker's speeds for the simulator, measured on this machine just before the trace is played."""

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

#: The first start reads files into the page cache, and is not counted.
STARTS = 3
PROMPTS = (100, 300, 600, 900, 1200)
BATCHES = (1, 2, 4, 8)
ANSWER_TOKENS = 64
#: The length of the answer that prompts disturb. It takes longer than all of them, so that each disturbs it fully.
DISTURBED_TOKENS = 500
#: The lengths of the prompts that disturb it.
DISTURBING = (1000, 1000, 1000, 1000)
#: Medians of several repetitions, because the machine has other work too.
REPEATED = 3


@dataclass(frozen=True)
class Physics:
    """The speeds of one worker."""

    cold_start_seconds: float
    #: The billed time after the last job, including the stop.
    idle_seconds: float
    #: The time to the first token of an empty prompt.
    overhead_seconds: float
    prefill_tokens_per_second: float
    #: The time per token: `decode_seconds` + concurrent answers x `decode_seconds_per_batch`.
    decode_seconds: float
    decode_seconds_per_batch: float
    #: The part of an answer's speed that a running prefill takes: 0 none, 1 all.
    prefill_share: float

    @property
    def profile(self) -> EndpointProfile:
        """Returns the profile that router and simulator use."""
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
        """Returns the fields, rounded to a tenth of a millisecond."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


async def measured(report: Callable[[str], object], logs: Path, starts: int = STARTS) -> Physics:
    """Measures a worker without a gateway, over several starts and idle stops. `report` gets the progress."""
    colds = []
    tails = []
    async with emulated(logs=logs) as endpoint:
        caller = Caller(endpoint.emulator.openai_url)
        for number in range(starts):
            report(f"calibration: start {number + 1} of {starts}")
            await _asked(caller, 16, 4)
            if number == starts - 1:
                report("calibration: speeds")
                overhead, prefill = await _reading(caller)
                decode, per_batch = await _answering(caller)
                share = await _disturbed(caller, prefill)
            idle_since = time.monotonic()
            await endpoint.until_no_worker()
            cold, stopped_at = _last_worker(endpoint)
            colds.append(cold)
            tails.append(stopped_at - idle_since)
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


def _last_worker(endpoint: Endpoint) -> tuple[float, float]:
    """Returns the seconds that the last worker took to be ready, and the time when it had stopped."""
    meter = list(endpoint.emulator.workers.values())[-1].meter
    assert meter.ready_at is not None
    assert meter.stopped_at is not None
    return meter.ready_at - meter.started_at, meter.stopped_at


async def _asked(caller: Caller, prompt_tokens: int, completion_tokens: int) -> Answer:
    answer = await caller.ask(prompt_tokens, completion_tokens)
    if answer.error is not None:
        raise RuntimeError(f"calibration failed, the worker answered: {answer.error}")
    return answer


async def _reading(caller: Caller) -> tuple[float, float]:
    """Returns the seconds to the first token of an empty prompt, and the prompt tokens per second."""
    lengths = []
    seconds = []
    for prompt in PROMPTS * 3:
        answer = await _asked(caller, prompt, 2)
        lengths.append(prompt)
        seconds.append(answer.first_token_at - answer.sent_at)
    slope, intercept = np.polyfit(lengths, seconds, 1)
    return max(0.0, float(intercept)), 1.0 / max(1e-6, float(slope))


async def _answering(caller: Caller) -> tuple[float, float]:
    """Returns the two terms of the seconds per token: the constant, and the part that each concurrent answer adds."""
    seconds = []
    for batch in BATCHES:
        answers = await asyncio.gather(*(_asked(caller, 16, ANSWER_TOKENS) for _ in range(batch)))
        seconds.append(statistics.fmean(answer.token_seconds for answer in answers))
    slope, intercept = np.polyfit(BATCHES, seconds, 1)
    return max(1e-4, float(intercept)), max(0.0, float(slope))


async def _disturbed(caller: Caller, prefill_tokens_per_second: float) -> float:
    """Returns the part of an answer's speed that a running prefill takes: 0 none, 1 all."""
    alone = []
    disturbed = []
    for _ in range(REPEATED):
        alone.append(_answering_seconds(await _asked(caller, 16, DISTURBED_TOKENS)))
        answer = asyncio.create_task(_asked(caller, 16, DISTURBED_TOKENS))
        await asyncio.sleep(0.2)  # it has begun
        for prompt in DISTURBING:
            await _asked(caller, prompt, 1)
        disturbed.append(_answering_seconds(await answer))
    # While a prefill runs for t seconds the answer loses share x t; sum(DISTURBING) / speed is t of all prompts.
    lost = statistics.median(disturbed) - statistics.median(alone)
    return min(0.99, max(0.0, lost * prefill_tokens_per_second / sum(DISTURBING)))  # a profile's share is below 1


def _answering_seconds(answer: Answer) -> float:
    return answer.ended_at - answer.first_token_at
