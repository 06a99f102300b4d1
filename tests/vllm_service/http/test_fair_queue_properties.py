"""Whatever comes and goes in a fair queue: nothing is lost, and no request waits for what it may take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_service.http.fair_queue import FairQueue, Flow, QueueBounds, Turn
from vllm_service.http.upstream import NoFreeConnection

BOUNDS = QueueBounds(of_organisation=4, in_total=7)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "come", "end", "leave", "cancel", "resize"]),
        st.sampled_from(["flood", "flood", "b", "c", ""]),
        st.sampled_from(["k", "l"]),
        st.integers(0, 12),
    ),
    max_size=120,
)


@dataclass
class Play:
    """A queue, and what its callers hold and wait for."""

    queue: FairQueue
    held: list[Flow] = field(default_factory=list)
    waiting: list[tuple[Flow, str, Turn]] = field(default_factory=list)

    def come(self, flow: Flow, key: str, number: int) -> None:
        if self.queue.take(flow):
            self.held.append(flow)
            return
        try:
            self.waiting.append((flow, key, self.queue.line_up(flow, key)))
        except NoFreeConnection:
            assert flow.waiting == BOUNDS.of_organisation or self.queue.length == BOUNDS.in_total

    def end(self, flow: Flow, key: str, number: int) -> None:
        if self.held:
            self.queue.give_back(self.held.pop(number % len(self.held)))

    def leave(self, flow: Flow, key: str, number: int) -> None:
        if self.waiting:
            self.queue.leave(*self.waiting.pop(number % len(self.waiting)))

    def cancel(self, flow: Flow, key: str, number: int) -> None:
        if self.waiting:
            self.waiting[number % len(self.waiting)][2].cancel()
            self.leave(flow, key, number)

    def resize(self, flow: Flow, key: str, number: int) -> None:
        self.queue.resize(number + 1)

    def collect(self) -> None:
        """Takes over what has been served, and forgets what was refused."""
        done = [entry for entry in self.waiting if entry[2].done()]
        self.waiting = [entry for entry in self.waiting if not entry[2].done()]
        self.held += [flow for flow, _, turn in done if not turn.cancelled() and turn.exception() is None]


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 12))
def test_whatever_comes_and_goes_nothing_is_lost_and_no_one_waits_for_what_it_may_take(
    steps: list[tuple[str, str, str, int]], capacity: int
) -> None:
    async def run() -> None:
        play = Play(FairQueue(capacity, BOUNDS))
        queue = play.queue
        for what, organisation, key, number in steps:
            getattr(play, what)(queue.flow(organisation), key, number)
            play.collect()
            assert queue.taken == len(play.held)
            assert queue.length == len(play.waiting)
            assert not any(queue.has_room(flow) for flow, _, _ in play.waiting)
        while play.held:
            play.end(play.held[0], "", 0)
            play.collect()
        assert queue.length == len(play.waiting) == queue.taken == 0

    asyncio.run(run())
