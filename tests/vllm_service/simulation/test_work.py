"""The work that the clairvoyant bound counts, against what the simulated worker needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vllm_service.simulation.worlds import PROFILE
from vllm_service.routing.profiles import EndpointProfile
from vllm_service.simulation.bound.work import Demand, weights_of, work_by
from vllm_service.simulation.worker import NEVER, Worker

SLOW_READER = replace(PROFILE, decode_seconds=0.02, decode_seconds_per_batch=0.001, slots=8)
UNDISTURBED = replace(PROFILE, prefill_share=0.0, slots=1)
STEEP = replace(PROFILE, decode_seconds=0.001, decode_seconds_per_batch=0.02)
LOADS = st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(1, 3000), st.integers(1, 200)), min_size=1, max_size=8)


class Job(NamedTuple):
    """When it reaches a worker, and its tokens."""

    at: float
    prompt_tokens: float
    completion_tokens: float


def played(jobs: Sequence[Job], profile: EndpointProfile) -> list[tuple[float, float]]:
    """First token and end of each, of one worker that takes them in this order."""
    worker = Worker(0, 0.0, 0.0, profile)
    first, end, waiting = [0.0] * len(jobs), [0.0] * len(jobs), list(range(len(jobs)))
    free_at = 0.0
    while waiting or worker.in_flight:
        comes = max(jobs[waiting[0]].at, free_at) if waiting and worker.in_flight < profile.slots else NEVER
        if comes <= worker.next_event:
            job = waiting.pop(0)
            worker.add(job, jobs[job].prompt_tokens, jobs[job].completion_tokens, comes)
        else:
            free_at = worker.next_event
            done, is_first = worker.step()
            (first if is_first else end)[done] = free_at
    return list(zip(first, end, strict=True))


@pytest.mark.parametrize("profile", [PROFILE, SLOW_READER, STEEP, UNDISTURBED])
@settings(max_examples=60, deadline=None)
@given(LOADS)
def test_a_worker_never_does_more_of_any_kind_of_work_than_there_are_seconds(
    profile: EndpointProfile, load: list[tuple[float, int, int]]
) -> None:
    """Whose windows lie within any span: deadlines are exactly when the simulated worker was done."""
    jobs, at = [], 0.0
    for gap, prompt_tokens, completion_tokens in load:
        at += gap
        jobs.append(Job(at, prompt_tokens, completion_tokens))
    arrival, prompts, tokens = np.array(jobs).T
    first, end = np.array(played(jobs, profile)).T
    reading = prompts / profile.prefill_tokens_per_second
    demand = Demand(arrival, np.zeros(len(jobs)), reading, tokens - 1.0, first, end)
    for weights in weights_of(profile):
        work = work_by(demand, *weights)
        for begins in np.concatenate([arrival, arrival + reading]):
            for ends in np.concatenate([first, end]):
                reads = work.reading[(arrival >= begins) & (first <= ends)].sum()
                answers = work.answering[(arrival + reading >= begins) & (end <= ends)].sum()
                assert reads + answers <= max(0.0, ends - begins) + 1e-9


def test_what_is_late_counts_as_read_and_its_tokens_only_where_time_to_answer_is_not_deducted() -> None:
    one = np.ones(1)
    demand = Demand(0.0 * one, one, 2.0 * one, 100.0 * one, 3.0 * one, 5.0 * one)
    plain, paced = work_by(demand, 0.7, 0.01, 0.0), work_by(demand, 0.7, 0.05, 1.0)
    assert (plain.seconds.item(), plain.late.item()) == pytest.approx((2.4, 2.4))
    assert (paced.seconds.item(), paced.late.item()) == pytest.approx((3.4, 1.4))
