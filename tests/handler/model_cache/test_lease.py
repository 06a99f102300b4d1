"""The lease: one holder, judged by the watcher's own clock, followed at once when it lets go or stands still."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from handler.model_cache import lease
from handler.model_cache.lease import LeaseLost, Pace, Watcher, beating
from handler.volume.path import VolumePath

PACE = Pace(heartbeat_seconds=0.01, stale_seconds=10, poll_seconds=0.01)


class Clock:
    """Goes on when told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_of_many_who_try_at_once_one_takes_it(tmp_path: Path) -> None:
    taken: list[object] = []
    barrier = threading.Barrier(16)

    def take() -> None:
        watcher = Watcher(VolumePath(tmp_path), PACE)
        barrier.wait()
        taken.append(watcher.try_take())

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in taken if one]) == 1


def test_a_holder_whose_heart_beats_is_never_followed(tmp_path: Path) -> None:
    clock = Clock()
    held = Watcher(VolumePath(tmp_path), PACE).try_take()
    assert held
    watcher = Watcher(VolumePath(tmp_path), PACE, clock)
    for _ in range(5):
        held.beat({"done_bytes": 7})
        assert watcher.try_take() is None
        clock.seconds += 9
    assert watcher.news == {"done_bytes": 7}


def test_a_heart_that_stands_still_is_followed_by_one_whatever_its_file_times_say(tmp_path: Path) -> None:
    """The holder's machine may live in another century."""
    clock = Clock()
    held = Watcher(VolumePath(tmp_path), PACE).try_take()
    assert held
    for path in tmp_path.iterdir():
        os.utime(path, (4e9, 4e9))
    watchers = [Watcher(VolumePath(tmp_path), PACE, clock) for _ in range(4)]
    assert [watcher.try_take() for watcher in watchers] == [None] * 4
    clock.seconds += 10.5
    successors = [one for one in (watcher.try_take() for watcher in watchers) if one]
    assert [one.number for one in successors] == [2]
    with pytest.raises(LeaseLost):
        held.check()
    successors[0].check()


def test_a_watcher_that_has_just_come_waits_its_full_time(tmp_path: Path) -> None:
    clock = Clock()
    assert Watcher(VolumePath(tmp_path), PACE).try_take()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    assert Watcher(VolumePath(tmp_path), PACE, clock).try_take() is None


def test_a_late_heart_beat_of_the_old_holder_disturbs_nobody(tmp_path: Path) -> None:
    clock = Clock()
    old = Watcher(VolumePath(tmp_path), PACE).try_take()
    watcher = Watcher(VolumePath(tmp_path), PACE, clock)
    assert old
    assert watcher.try_take() is None
    clock.seconds += 11
    new = watcher.try_take()
    assert new
    old.beat()
    old.release()
    assert Watcher(VolumePath(tmp_path), PACE, clock).try_take() is None
    new.check()


def test_a_released_lease_is_taken_at_once_and_its_predecessors_are_swept_up(tmp_path: Path) -> None:
    attempts = []
    for _ in range(5):
        held = Watcher(VolumePath(tmp_path), PACE).try_take()
        assert held
        attempts.append(held.attempt)
        held.release()
    assert {path.name for path in tmp_path.iterdir()} == {"000005", f"{attempts[-1]}.beat"}


def test_it_beats_with_its_news_and_notices_a_successor(tmp_path: Path) -> None:
    held = Watcher(VolumePath(tmp_path), PACE).try_take()
    assert held
    with beating(held, PACE, lambda: {"done_bytes": 3}) as lost:
        watcher = Watcher(VolumePath(tmp_path), PACE)
        while watcher.news != {"done_bytes": 3}:
            assert watcher.try_take() is None
            time.sleep(0.001)
        (tmp_path / "000002").write_text("{}")
        assert lost.wait(60)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"attempt": 5}'])
def test_a_torn_lease_counts_as_held_and_then_as_stale(tmp_path: Path, content: str) -> None:
    clock = Clock()
    (tmp_path / "000001").write_text(content)
    watcher = Watcher(VolumePath(tmp_path), PACE, clock)
    assert watcher.try_take() is None
    clock.seconds += 11
    taken = watcher.try_take()
    assert taken is not None
    assert taken.number == 2


def test_where_there_are_no_hard_links_an_exclusive_file_does(tmp_path: Path) -> None:
    path = tmp_path / "000001"
    assert lease.create_without_links(VolumePath(tmp_path) / path.name, json.dumps({"attempt": "a"}))
    assert not lease.create_without_links(VolumePath(tmp_path) / path.name, json.dumps({"attempt": "b"}))
    assert json.loads(path.read_text()) == {"attempt": "a"}
