"""Lives of workers from looks: what a list says, what counts leave open, gaps, clocks that jump, and bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vllm_service.accounting.lives import MOST_LIVES, EndpointLives, LivesSettings
from vllm_service.domain.worker_lives import EndpointSight, KnownBy, Phase, WorkerCounts, WorkerLife, WorkerSight

S = 1_000_000
T = 1_796_000_000 * S
SETTINGS = LivesSettings(idle_timeout_us=5 * S, cold_start_us=30 * S)
PRICES = {None: 300, "L4": 190}


def lives() -> EndpointLives:
    return EndpointLives("own", "ep", lambda gpu_type, _: PRICES.get(gpu_type), SETTINGS)


def listed(at: float, *workers: WorkerSight) -> EndpointSight:
    return EndpointSight(round(T + at * S), workers=workers)


def counted(at: float, starting: int = 0, warm: int = 0, running: int = 0) -> EndpointSight:
    return EndpointSight(round(T + at * S), counts=WorkerCounts(starting, warm, running))


def unseen(at: float) -> EndpointSight:
    return EndpointSight(round(T + at * S))


def worker(name: str, started: float | None, phase: Phase = Phase.WARM, *, running: bool = False) -> WorkerSight:
    start = None if started is None else round(T + started * S)
    return WorkerSight(name, phase, running, start, "L4", 1, "EU-1")


def ends(life: WorkerLife) -> tuple[float, float | None, float | None]:
    """Start, ready and stop in seconds."""
    times = (life.started_at_us, life.ready_at_us, life.stopped_at_us)
    started, ready, stopped = (None if at is None else (at - T) / S for at in times)
    assert started is not None
    return started, ready, stopped


def followed(*sights: EndpointSight) -> dict[str, WorkerLife]:
    """The lives as last returned, by the worker's name and start."""
    followed_by = lives()
    known = {life.life_id: life for sight in sights for life in followed_by.observe(sight)}
    return {f"{life.worker_id}@{ends(life)[0]:g}": life for life in known.values()}


def test_a_listed_worker_begins_at_its_start_and_is_ready_and_stops_between_two_looks() -> None:
    starting = worker("w", 1.25, Phase.STARTING)
    idle = worker("w", 1.25)
    found = followed(listed(0), listed(2, starting), listed(4, starting), listed(6, idle), listed(8, idle), listed(10))
    (life,) = found.values()
    assert ends(life) == (1.25, 5.0, 9.0)
    assert (life.known_by, life.gpu_type, life.picousd_per_microsecond) == (KnownBy.WORKERS, "L4", 190)
    assert life.uncertain_us == 1 * S


def test_loading_an_image_waiting_for_a_gpu_and_being_ill_are_no_life() -> None:
    loading = worker("w", None, Phase.STARTING)
    assert followed(listed(0, loading), listed(2, worker("v", None, Phase.UNBILLED))) == {}
    (life,) = followed(
        listed(0, loading), listed(2, worker("w", 1)), listed(4, worker("w", 1, Phase.UNBILLED))
    ).values()
    assert ends(life) == (1.0, 1.5, 3.0)


@pytest.mark.parametrize(
    ("started", "looks"),
    [(600, 60), (7200, 60), (30, 120), (-1_796_000_000, 60), (-62_000_000_000, 60), (None, 60)],
    ids=["in 10 min", "in 2 h", "passed meanwhile", "1970", "year 1", "missing"],
)
def test_a_start_that_cannot_be_is_none_and_no_second_of_the_looks_is_lost(started: float | None, looks: int) -> None:
    found = followed(listed(0), *(listed(at, worker("w", started)) for at in range(2, looks, 2)), listed(looks))
    seconds = sum((life.stopped_at_us or 0) - life.started_at_us for life in found.values()) / S
    assert abs(seconds - (looks - 2)) <= 12


def test_a_worker_that_starts_anew_has_a_second_life() -> None:
    found = followed(listed(0, worker("w", -10)), listed(2), listed(4, worker("w", 3)), listed(6))
    assert {name: ends(life)[2] for name, life in found.items()} == {"w@-10": 1.0, "w@3": 5.0}


def test_after_a_gap_the_same_start_is_the_same_life() -> None:
    found = followed(listed(0, worker("w", -10)), listed(3600, worker("w", -10)), listed(3602))
    assert [ends(life) for life in found.values()] == [(-10.0, 0.0, 3601.0)]


def test_a_worker_that_is_gone_after_a_gap_stopped_when_its_idle_timeout_was_over() -> None:
    (life,) = followed(listed(0, worker("w", -10)), listed(3600)).values()
    assert ends(life)[2] == 5.0
    assert life.uncertain_us == 3595 * S


def test_an_endpoint_that_cannot_be_seen_keeps_its_workers_for_a_while() -> None:
    followed_by = lives()
    followed_by.observe(listed(0, worker("w", -10)))
    assert followed_by.observe(unseen(890)) == []
    (ended,) = followed_by.observe(unseen(901))
    assert ends(ended)[2] == 5.0
    (again,) = followed_by.observe(listed(910, worker("w", -10)))
    assert (again.life_id, again.stopped_at_us, again.is_settled) == (ended.life_id, None, False)


def test_a_worker_that_is_missing_in_one_list_goes_on() -> None:
    found = followed(listed(0, worker("w", -10)), listed(2), listed(4, worker("w", -9.5)), listed(6))
    assert [ends(life) for life in found.values()] == [(-10.0, 0.0, 5.0)]


def test_counts_alone_give_lives_between_the_looks() -> None:
    found = followed(counted(0), counted(2, starting=1), counted(4, warm=1), counted(6, warm=1), counted(8))
    assert [ends(life) for life in found.values()] == [(1.0, 3.0, 7.0)]
    (life,) = found.values()
    assert (life.known_by, life.gpu_type, life.picousd_per_microsecond) == (KnownBy.HEALTH, None, 300)
    assert life.uncertain_us == 2 * S


def test_counts_of_several_workers_add_up_to_their_seconds() -> None:
    looks = [(0, 0), (2, 0), (1, 1), (0, 3), (0, 3), (1, 1), (0, 0)]
    sights = [counted(2 * at, starting, warm) for at, (starting, warm) in enumerate(looks)]
    seconds = sum((ends(life)[2] or 0) - ends(life)[0] for life in followed(*sights).values())
    assert seconds == sum(2 * sum(look) for look in looks)


def test_a_list_names_the_workers_that_were_only_counted() -> None:
    followed_by = lives()
    followed_by.observe(counted(0))
    (guess,) = followed_by.observe(counted(2, warm=1))
    (named,) = followed_by.observe(listed(4, worker("w", 0.5)))
    assert (named.life_id, named.worker_id, named.known_by) == (guess.life_id, "w", KnownBy.WORKERS)
    assert (ends(named)[0], named.uncertain_us) == (0.5, 0)
    assert len(followed_by.open) == 1


def test_what_is_booked_of_a_counted_life_keeps_its_start_when_a_list_names_it() -> None:
    followed_by = lives()
    followed_by.observe(counted(0))
    (guess,) = followed_by.observe(counted(2, warm=1))
    followed_by.booked(replace(guess, booked_until_us=T + 2 * S, booked_picousd=300 * S))
    for at in (4, 6):
        (named,) = followed_by.observe(listed(at, worker("w", 0.5)))
        assert (ends(named)[0], named.worker_id) == (1.0, "w")
    assert len(followed_by.open) == 1


def test_lists_that_fail_for_a_while_are_bridged_by_counts() -> None:
    two = (worker("a", -10), worker("b", -5))
    found = followed(listed(0, *two), counted(2, warm=2), counted(4, warm=1), listed(6, *two), listed(8))
    assert {name: ends(life)[2] for name, life in found.items()} == {"a@-10": 7.0, "b@-5": 7.0}


def test_it_was_at_work_between_two_looks_that_both_saw_it_running() -> None:
    idle, running = worker("w", -10), worker("w", -10, running=True)
    sights = (idle, running, running, running, idle, running, idle, running)
    (life,) = followed(*(listed(2 * at, sight) for at, sight in enumerate(sights))).values()
    assert life.running_spans == ((T + 2 * S, T + 6 * S),)
    (life,) = followed(listed(0, running), listed(60, running)).values()
    assert life.running_spans == ()


@pytest.mark.parametrize("back", [0, 1, 19])
def test_a_look_that_comes_late_changes_nothing(back: float) -> None:
    followed_by = lives()
    followed_by.observe(listed(100, worker("w", 0)))
    assert followed_by.observe(listed(100 - back)) == []
    assert len(followed_by.open) == 1


def test_clocks_that_jump_make_no_negative_life_and_stop_nothing() -> None:
    w = worker("w", 0)
    found = followed(listed(2, w), listed(9000, w), listed(10, w), listed(12, w), listed(14))
    (life,) = found.values()
    started, ready, stopped = ends(life)
    assert started == 0.0
    assert ready is not None
    assert stopped is not None
    assert started <= ready <= stopped
    (early,) = followed(listed(0, worker("w", 7)), listed(2)).values()
    assert ends(early) == (7.0, 7.0, 7.0)
    (nonsense,) = followed(listed(0, worker("w", 10**9)), listed(2)).values()
    assert ends(nonsense)[0] == 0.0


def test_whatever_is_counted_and_listed_the_lives_are_bounded() -> None:
    followed_by = lives()
    followed_by.observe(counted(0, starting=2**53, warm=2**53, running=2**53))
    assert len(followed_by.open) == MOST_LIVES
    followed_by.observe(listed(2, *(worker(f"w{number}", 0) for number in range(5000))))
    assert len(followed_by.open) == MOST_LIVES
    for at in range(4, 400, 2):
        running = worker("w", 0, running=at % 8 != 0)
        followed_by.observe(listed(at, running, *(worker(f"w{at}-{number}", at) for number in range(300))))
    assert len(followed_by.open) == 301
    (one,) = (life for life in followed_by.open if life.worker_id == "w")
    assert len(one.running_spans) <= 128


def test_the_next_replica_goes_on_with_the_lives_of_the_one_before() -> None:
    first, second = lives(), lives()
    first.observe(listed(0))
    (life,) = first.observe(listed(2, worker("w", 1)))
    second.restore([life])
    (same,) = second.observe(listed(12, worker("w", 1)))
    assert (same.life_id, ends(same)) == (life.life_id, ends(life))
    (ended,) = second.observe(listed(14))
    third = lives()
    third.restore([ended])
    assert third.open == ()
    (again,) = third.observe(listed(16, worker("w", 1)))
    assert (again.life_id, again.stopped_at_us) == (life.life_id, None)
