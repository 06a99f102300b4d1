"""The simulator's physics, against cases that were computed by hand."""

from __future__ import annotations

import pytest

from tests.vllm_service.simulation.worlds import PROFILE, scenario, trace
from vllm_service.simulation.draws import Draws
from vllm_service.simulation.endpoint import Endpoint
from vllm_service.simulation.policies.baselines import BASELINES
from vllm_service.simulation.replay import Outcome, Replay
from vllm_service.simulation.worker import Worker


def events(worker: Worker, until: float) -> list[tuple[float, int, bool]]:
    """(time, request, is first token) in order."""
    seen = []
    while worker.next_event <= until:
        at = worker.next_event
        seen.append((round(at, 9), *worker.step()))
    return seen


def run(name: str, rows: list[tuple[float, float, float]], **changes: float) -> Outcome:
    world, requests = scenario(**changes), trace(rows)
    return Replay(requests, world, Draws(world, len(requests), 0), BASELINES[name]()).run()


def test_one_request_reads_and_then_answers_at_a_batch_of_one() -> None:
    worker = Worker(0, 0.0, 0.0, PROFILE)
    worker.add(7, 1000.0, 11.0, 0.0)
    # 1000 tokens at 1000/s; then ten more tokens of 0.01 + 0.01 x 1 seconds.
    assert events(worker, 100.0) == [(1.0, 7, True), (1.2, 7, False)]


def test_a_prompt_that_is_read_leaves_three_tenths_of_the_speed_to_answers() -> None:
    worker = Worker(0, 0.0, 0.0, PROFILE)
    worker.add(1, 1000.0, 21.0, 0.0)
    worker.add(2, 1000.0, 11.0, 0.0)
    # From 1 s to 2 s the first answer gets 0.3 / 0.02 = 15 of its 20 tokens. Then both at 0.03 s per token: the first
    # needs 5 more (2.15 s). The second has 5 of its 10 by then and ends alone at 0.02 s per token.
    assert events(worker, 100.0) == [(1.0, 1, True), (2.0, 2, True), (2.15, 1, False), (2.25, 2, False)]


def test_prompts_are_read_one_after_the_other() -> None:
    worker = Worker(0, 0.0, 0.0, PROFILE)
    for request in range(3):
        worker.add(request, 500.0, 1.0, 0.0)
    assert [at for at, _, first in events(worker, 10.0) if first] == [0.5, 1.0, 1.5]


def test_all_own_pays_cold_start_work_and_idle_time_out_rounded_up() -> None:
    outcome = run("all_own", [(0.0, 1000.0, 11.0)], queue_delay_seconds=60.0)
    # 20 s cold + 1 s reading + 0.2 s answering + 5 s idle = 26.2 s, billed as 27.
    assert outcome.billed_seconds == 27
    assert outcome.own_usd == pytest.approx(0.027)
    assert outcome.first_token_seconds[0] == pytest.approx(20 + 1 + 0.15)
    assert not outcome.within[0]


def test_a_second_request_within_the_idle_time_out_finds_a_warm_worker() -> None:
    outcome = run("all_own", [(0.0, 1000.0, 11.0), (24.0, 1000.0, 11.0)], queue_delay_seconds=60.0)
    assert outcome.starts == 1
    assert outcome.first_token_seconds[1] == pytest.approx(1.15)
    assert outcome.billed_seconds == 31  # 24 + 1.2 + 5 = 30.2
    late = run("all_own", [(0.0, 1000.0, 11.0), (27.0, 1000.0, 11.0)], queue_delay_seconds=60.0)
    assert late.starts == 2


def test_queue_delay_scaling_adds_a_worker_every_four_seconds_while_a_job_waits() -> None:
    world = scenario()
    endpoint = Endpoint(world.own, Draws(world, 1, 0))
    endpoint.submit(0, 1000.0, 11.0, 0.0)
    started = [(0.0, endpoint.starts)]
    while endpoint.next_event < 15.0:
        at = endpoint.next_event
        endpoint.step()
        started.append((at, endpoint.starts))
    assert started == [(0.0, 1), (4.0, 2), (8.0, 3), (12.0, 4)]


def test_a_worker_that_is_let_go_ends_its_answers_first() -> None:
    world = scenario()
    endpoint = Endpoint(world.own, Draws(world, 1, 0))
    endpoint.set_target(1, 0.0)
    endpoint.step()
    endpoint.submit(0, 1000.0, 11.0, 20.0)
    endpoint.set_target(0, 20.5)
    endpoint.submit(1, 10.0, 1.0, 20.6)
    seen = []
    while endpoint.next_event < 100.0:
        at = endpoint.next_event
        seen += [(round(at, 9), *what) for what in endpoint.step()]
    assert seen == [(21.0, 0, True), (21.2, 0, False)]
    assert endpoint.billed_seconds == 27  # 21.2 + 5, rounded up
    assert endpoint.queue  # nobody takes the second


def test_a_request_that_is_let_go_and_wanted_again_keeps_its_worker() -> None:
    world = scenario()
    endpoint = Endpoint(world.own, Draws(world, 1, 0))
    endpoint.set_target(1, 0.0)
    endpoint.step()
    endpoint.set_target(0, 21.0)
    endpoint.set_target(1, 22.0)
    assert (endpoint.starts, len(endpoint.warm)) == (1, 1)


def test_hosted_costs_its_tokens_and_a_429_loses_a_third_of_a_second_and_the_cheaper_price() -> None:
    plain = run("all_hosted", [(0.0, 1000.0, 100.0)])
    assert plain.usd == pytest.approx((1000 * 1 + 100 * 2) / 1e6)
    assert plain.first_token_seconds[0] == pytest.approx(0.5)
    assert plain.end_seconds[0] == pytest.approx(0.5 + 100 / 100)
    world, requests = scenario(), trace([(0.0, 1000.0, 100.0)])
    draws = Draws(world, 1, 0)
    draws.rejected[0, 0] = True
    refused = Replay(requests, world, draws, BASELINES["all_hosted"]()).run()
    assert refused.usd == pytest.approx((1000 * 3 + 100 * 4) / 1e6)
    assert refused.first_token_seconds[0] == pytest.approx(0.3 + 0.25)


def test_a_time_out_fallback_pays_twice() -> None:
    outcome = run("nominal_fallback", [(0.0, 1000.0, 11.0)], usd_per_second=0.0001, queue_delay_seconds=60.0)
    assert outcome.hosted_usd == pytest.approx((1000 * 1 + 11 * 2) / 1e6)
    assert outcome.own_usd == pytest.approx(27 * 0.0001)
    assert outcome.first_token_seconds[0] == pytest.approx(1.1 + 0.5)  # half of 2.2 seconds, then the hosted one


def test_active_spill_keeps_one_worker_from_start_to_end() -> None:
    outcome = run("active_spill", [(0.0, 100.0, 2.0), (100.0, 100.0, 2.0)])
    assert outcome.starts == 1
    assert outcome.hosted_usd == pytest.approx((100 * 1 + 2 * 2) / 1e6)  # the first came before the worker was warm
    assert outcome.billed_seconds == 106  # 100 + 0.1 + 0.02 + 5
