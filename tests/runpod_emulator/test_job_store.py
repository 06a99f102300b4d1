"""The queue as a state machine: every step on a clock that is set by hand."""

from __future__ import annotations

from typing import Any

import pytest

from runpod_emulator.errors import BadRequest, NotFound
from runpod_emulator.jobs.job import Status
from tests.runpod_emulator.support import Bench


def test_jobs_are_taken_in_order_and_those_of_low_priority_last() -> None:
    bench = Bench()
    later, first, second = bench.job(lowPriority=True), bench.job(), bench.job()
    assert bench.take(limit=2) == [first, second]
    assert bench.take(limit=2) == [later]
    assert bench.take() == []


def test_a_job_carries_its_delay_and_its_execution_time_in_milliseconds() -> None:
    bench = Bench()
    job = bench.job()
    bench.clock.pass_(1.5)
    bench.take("w1")
    bench.clock.pass_(0.25)
    assert bench.store.finish(job.id, "w1", {"output": [1]})
    assert job.for_client(bench.clock()) == {
        "id": job.id,
        "status": "COMPLETED",
        "delayTime": 1500,
        "executionTime": 250,
        "workerId": "w1",
        "output": [1],
    }


def test_a_chunk_is_read_once() -> None:
    bench = Bench()
    job = bench.job()
    bench.take()
    for number in range(3):
        assert bench.store.add_chunk(job.id, "w1", number)
    assert (job.read_chunks(), job.read_chunks()) == ([0, 1, 2], [])


def test_an_error_fails_the_job_and_a_progress_update_does_not_end_it() -> None:
    bench = Bench()
    job = bench.job()
    bench.take()
    bench.store.finish(job.id, "w1", {"status": "IN_PROGRESS", "output": "half"})
    assert (job.status, job.output) == (Status.IN_PROGRESS, "half")
    bench.store.finish(job.id, "w1", {"error": {"message": "no"}})
    assert (job.status, job.error) == (Status.FAILED, '{"message": "no"}')


def test_only_the_worker_that_holds_a_job_can_answer_it_and_only_once() -> None:
    bench = Bench()
    job = bench.job()
    bench.take("w1")
    assert not bench.store.finish(job.id, "w2", {"output": "stolen"})
    assert not bench.store.add_chunk(job.id, "w2", "stolen")
    assert bench.store.finish(job.id, "w1", {"output": "first"})
    assert not bench.store.finish(job.id, "w1", {"output": "second"})
    assert job.output == "first"


def test_a_lost_workers_jobs_go_back_to_the_front_in_order_and_its_late_results_are_ignored() -> None:
    bench = Bench()
    jobs = [bench.job(number) for number in range(3)]
    bench.take("w1", limit=2)
    bench.store.add_chunk(jobs[0].id, "w1", "unread")
    bench.store.give_back("w1", "worker w1 is gone")
    assert bench.take("w2", limit=9) == jobs
    assert not bench.store.finish(jobs[0].id, "w1", {"output": "late"})
    assert not jobs[0].chunks
    assert bench.store.counts["retried"] == 2


def test_a_job_whose_workers_keep_dying_is_given_up() -> None:
    bench = Bench(max_redeliveries=1)
    job = bench.job()
    for worker in ("w1", "w2"):
        bench.take(worker)
        bench.store.give_back(worker, "worker lost")
    assert job.status is Status.FAILED
    assert job.error == "worker lost; given up after 2 attempts"


def test_a_job_with_chunks_already_read_is_not_run_again() -> None:
    bench = Bench()
    job = bench.job()
    bench.take()
    bench.store.add_chunk(job.id, "w1", "half an ans")
    job.read_chunks()
    bench.store.give_back("w1", "worker lost")
    assert job.status is Status.FAILED
    assert "after part of the answer had been read" in (job.error or "")


def test_cancelling_a_running_job_tells_its_worker_and_only_that_one() -> None:
    bench = Bench()
    running, waiting = bench.job(), bench.job()
    bench.take("w1")
    bench.store.cancel(waiting)
    bench.store.cancel(running)
    assert (running.status, waiting.status) == (Status.CANCELLED, Status.CANCELLED)
    assert bench.registry.workers["w1"].take_stop_ids() == [running.id]
    assert bench.registry.workers["w1"].jobs == 0
    assert not bench.store.finish(running.id, "w1", {"output": "too late"})


def test_execution_timeout_ends_the_job_and_stops_the_worker() -> None:
    bench = Bench()
    job = bench.job(executionTimeout=6000)
    bench.take()
    bench.clock.pass_(5.9)
    bench.store.expire()
    assert not job.is_final
    bench.clock.pass_(0.1)
    bench.store.expire()
    assert job.status is Status.TIMED_OUT
    assert bench.registry.workers["w1"].take_stop_ids() == [job.id]


def test_a_job_that_waits_longer_than_its_ttl_times_out_and_can_be_retried() -> None:
    bench = Bench()
    job = bench.job(ttl=1000)
    bench.clock.pass_(1)
    bench.store.expire()
    assert job.status is Status.TIMED_OUT
    assert "ttl, 1 s" in (job.error or "")
    bench.store.retry(job)
    assert bench.take() == [job]


def test_a_completed_job_cannot_be_retried() -> None:
    bench = Bench()
    job = bench.job()
    bench.take()
    bench.store.finish(job.id, "w1", {"output": 1})
    with pytest.raises(BadRequest, match="COMPLETED"):
        bench.store.retry(job)


def test_results_are_kept_for_as_long_as_their_kind_says_from_their_last_end() -> None:
    bench = Bench()
    short, long = bench.job(keep_seconds=60), bench.job(keep_seconds=1800)
    bench.take(limit=2)
    for job in (short, long):
        bench.store.finish(job.id, "w1", {"error": "no"})
    bench.clock.pass_(59)
    bench.store.expire()
    bench.store.retry(short)
    bench.take()
    bench.store.finish(short.id, "w1", {"output": 1})
    bench.clock.pass_(59)
    bench.store.expire()
    assert bench.store.get(short.id) is short
    bench.clock.pass_(1)
    bench.store.expire()
    with pytest.raises(NotFound):
        bench.store.get(short.id)
    assert bench.store.get(long.id) is long
    bench.clock.pass_(1800)
    bench.store.expire()
    assert len(bench.store) == 0


def test_purging_cancels_what_waits_and_leaves_what_runs() -> None:
    bench = Bench()
    running, waiting = bench.job(), bench.job(lowPriority=True)
    bench.take()
    assert bench.store.purge() == 1
    assert (running.status, waiting.status) == (Status.IN_PROGRESS, Status.CANCELLED)


def test_a_take_that_never_arrived_is_undone() -> None:
    bench = Bench()
    first, second = bench.job(), bench.job()
    bench.store.undo_take("w1", bench.take(limit=2))
    assert bench.take("w2", limit=2) == [first, second]
    assert bench.registry.workers["w1"].jobs == 0
    assert bench.store.counts["retried"] == 0


def test_a_duplicate_goes_to_the_next_taker_whose_answer_does_not_count() -> None:
    bench = Bench()
    job = bench.job()
    bench.take("w1")
    bench.store.deliver_again(job)
    assert bench.take("w2") == [job]
    assert not bench.store.finish(job.id, "w2", {"output": "double"})
    assert bench.store.finish(job.id, "w1", {"output": "single"})


def test_a_duplicate_of_a_job_that_has_ended_is_not_delivered() -> None:
    bench = Bench()
    job = bench.job()
    bench.take("w1")
    bench.store.deliver_again(job)
    bench.store.finish(job.id, "w1", {"output": 1})
    assert bench.take("w2") == []


@pytest.mark.parametrize(
    "policy", [{"executionTimeout": 4999}, {"executionTimeout": True}, {"ttl": 0}, {"ttl": "1"}, {"lowPriority": 1}]
)
def test_a_policy_that_cannot_be_is_refused_by_name(policy: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(policy))):
        Bench().job(**policy)
