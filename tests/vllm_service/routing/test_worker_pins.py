"""Which worker a conversation is kept on, and when it is let go."""

from __future__ import annotations

import pytest

from vllm_service.routing.worker_pins import WorkerPins

CHAT = b"conversation"


def pins_of(*held: tuple[bytes, str], **bounds: int) -> WorkerPins:
    pins = WorkerPins(**bounds)
    for conversation, worker in held:
        pins.served("own", "acme", conversation, worker, 100)
    return pins


def test_a_conversation_is_kept_where_it_was_read_last() -> None:
    pins = pins_of((CHAT, "w1"))
    assert pins.worker_for("own", "acme", CHAT, 0) == "w1"
    pins.served("own", "acme", CHAT, "w2", 100)
    assert (pins.worker_for("own", "acme", CHAT, 0), len(pins)) == ("w2", 1)


@pytest.mark.parametrize(
    ("provider", "organisation", "conversation", "now"),
    [("other", "acme", CHAT, 0), ("own", "zeta", CHAT, 0), ("own", "acme", b"another", 0), ("own", "acme", CHAT, 100)],
)
def test_it_is_kept_for_nobody_else_and_not_beyond_its_time(
    provider: str, organisation: str, conversation: bytes, now: float
) -> None:
    assert pins_of((CHAT, "w1")).worker_for(provider, organisation, conversation, now) is None


@pytest.mark.parametrize(
    ("usable", "warm", "wanted", "worker"),
    [
        ({"w1", "w2"}, 2, 2, "w1"),
        ({"w1", "w2"}, 2, 5, "w1"),
        ({"w2"}, 1, 1, None),  # stale, throttled, unhealthy or gone
        (set(), 0, 0, None),
        ({"w1", "w2"}, 2, 1, "w2"),  # w2 has more conversations: w1 is to go, and its conversations move
        ({"w1", "w2"}, 2, 0, None),
        (None, 2, 2, "w1"),  # not listed, and none is to go
        (None, 2, 1, None),  # not listed: any of them may be the one
    ],
)
def test_a_pin_ends_where_it_would_keep_a_worker_that_should_go(
    usable: set[str] | None, warm: int, wanted: int, worker: str | None
) -> None:
    pins = pins_of((CHAT, "w1"), (b"2", "w2"), (b"3", "w2"))
    pins.observe("own", usable, warm=warm, wanted=wanted, now=0)
    assert pins.worker_for("own", "acme", CHAT, 0) == worker


def test_while_a_worker_is_to_go_new_conversations_are_spread_over_those_that_stay() -> None:
    pins = pins_of((b"1", "w1"), (b"2", "w1"), (b"3", "w2"), (b"4", "w2"))
    pins.observe("own", {"w1", "w2", "w3"}, warm=3, wanted=2, now=0)
    assert sorted(str(pins.worker_for("own", "acme", b"%d" % n, 0)) for n in range(10, 14)) == ["w1", "w1", "w2", "w2"]
    pins.observe("own", {"w1", "w2", "w3"}, warm=3, wanted=3, now=0)
    assert pins.worker_for("own", "acme", b"10", 0) is None


@pytest.mark.parametrize("worker", ["", "x" * 129, "w1\r\nx: y", "strict w1", "ä", "w1 "])
def test_what_is_no_workers_id_is_not_kept(worker: str) -> None:
    assert len(pins_of((CHAT, worker))) == 0


def test_what_one_organisation_sends_does_not_take_anothers_pins() -> None:
    pins = WorkerPins(most=100, most_of_one=1000)
    for organisation in ("small", "flood"):
        for number in range(5 if organisation == "small" else 5_000):
            pins.served("own", organisation, b"%d" % number, "w1", 100)
    assert len(pins) == 100
    assert all(pins.worker_for("own", "small", b"%d" % number, 0) for number in range(5))
    assert pins.worker_for("own", "flood", b"4999", 0) == "w1"
    assert pins.worker_for("own", "flood", b"0", 0) is None


def test_one_organisation_has_a_bound_of_its_own() -> None:
    pins = pins_of(*((b"%d" % number, "w1") for number in range(50)), most_of_one=10)
    assert len(pins) == 10


def test_what_is_over_is_forgotten() -> None:
    pins = pins_of((CHAT, "w1"))
    pins.served("own", "acme", b"later", "w1", 200)
    pins.expire(100)
    assert (len(pins), pins.worker_for("own", "acme", b"later", 100)) == (1, "w1")
    pins.expire(200)
    assert len(pins) == 0
