"""Shares a limited number of connections between organisations: how many each may hold, and whose turn is next.

Two rules, both by what an organisation holds now, so that long answers count for as long as they last:

* Max-min fairness (Bertsekas and Gallager, Data Networks, 6.5.2): a connection that becomes free goes to the waiting
  organisation that holds the fewest. Of equal ones the one that was served longest ago is next; within an organisation
  its keys take turns, and a key's requests go in the order in which they came. So with n organisations that always
  wait, each has the n-th part of the connections, however many requests each has sent.
* A dynamic threshold (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998): an organisation takes a
  further connection only if it then holds at most HELD_PER_FREE for each one that stays free. Without it, one that
  comes to a pool full of another one's long answers would wait until some of them end. Alone, an organisation gets 8
  of 9 connections; the more organisations there are, the fewer are free. The first connection is never refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from vllm_service.domain.status import PoolState
from vllm_service.http.upstream import NoFreeConnection

#: How many connections an organisation may hold for each one that stays free.
HELD_PER_FREE = 8
#: With more organisations than this, those that hold nothing and wait for nothing are dropped.
_MOST_IDLE_FLOWS = 1000
Turn = asyncio.Future[None]


class QueueBounds(NamedTuple):
    """The most requests that may wait for a connection to one provider."""

    of_organisation: int = 1000
    in_total: int = 4000


class Flow:
    """One organisation at one provider: the connections that it holds, and its requests that wait for one."""

    __slots__ = ("held", "leaves_some", "served", "turns", "waiting")

    def __init__(self, *, leaves_some: bool) -> None:
        #: Connections that are used or opened for it.
        self.held = 0
        #: The number of the last turn that was its; 0 before the first.
        self.served = 0
        #: How many of its requests wait.
        self.waiting = 0
        #: Those requests by key. The first key is the next to be served.
        self.turns: dict[str, deque[Turn]] = {}
        #: Whether it has to leave some connections free. The gateway's own requests, of no organisation, need not.
        self.leaves_some = leaves_some

    def add(self, key: str, turn: Turn) -> None:
        """Puts a request at the end of its key's line."""
        self.turns.setdefault(key, deque()).append(turn)
        self.waiting += 1

    def next(self) -> Turn:
        """Removes and returns the next request; its key goes behind the others."""
        key = next(iter(self.turns))
        line = self.turns.pop(key)
        turn = line.popleft()
        if line:
            self.turns[key] = line
        self.waiting -= 1
        return turn

    def last(self) -> Turn:
        """Removes and returns the last request of the longest line."""
        key = max(self.turns, key=lambda name: len(self.turns[name]))
        turn = self.turns[key][-1]
        self.remove(key, turn)
        return turn

    def remove(self, key: str, turn: Turn) -> None:
        """Removes a request, if it still waits."""
        line = self.turns.get(key)
        if line is None or turn not in line:
            return
        line.remove(turn)
        self.waiting -= 1
        if not line:
            del self.turns[key]


class FairQueue:
    """The right to use one of `capacity` connections, and the requests that wait for it."""

    def __init__(self, capacity: int, bounds: QueueBounds, *, is_shared: bool = True) -> None:
        """is_shared: whether there may be other organisations; without them nothing is kept free."""
        self.capacity = capacity
        self._bounds = bounds
        self._is_shared = is_shared
        #: How many may still be taken; below 0 after `resize` until enough have been given back.
        self.free = capacity
        #: By organisation.
        self.flows: dict[str, Flow] = {}
        #: The flows that have requests waiting, in the order in which they began to. The values mean nothing.
        self._lined_up: dict[Flow, None] = {}
        #: How many turns there were since the start.
        self._turns = 0
        #: How many requests wait.
        self.length = 0
        #: How many were refused since the start, because they had waited for too long or too many waited.
        self.refusals = 0

    @property
    def taken(self) -> int:
        """The number of connections that are used or being opened."""
        return self.capacity - self.free

    def state(self, before: PoolState | None) -> PoolState:
        """Returns what there is now. before: of the provider's other connections, which is added."""
        if before is None:
            return PoolState(self.taken, self.capacity, self.length, self.refusals)
        taken = before.taken + self.taken
        return PoolState(taken, self.capacity, before.waiting + self.length, before.refusals + self.refusals)

    def flow(self, organisation: str) -> Flow:
        """Returns the organisation's flow, and makes it at its first request."""
        flow = self.flows.get(organisation)
        if flow is None:
            if len(self.flows) > _MOST_IDLE_FLOWS:
                self.flows = {name: known for name, known in self.flows.items() if known.held or known.waiting}
            flow = self.flows[organisation] = Flow(leaves_some=self._is_shared and bool(organisation))
        return flow

    def has_room(self, flow: Flow) -> bool:
        """Returns whether the flow may take one more."""
        free = self.free
        return free > 0 and (not flow.held or not flow.leaves_some or flow.held < HELD_PER_FREE * (free - 1))

    def take(self, flow: Flow) -> bool:
        """Takes one for a request that has just come; False if it has to line up.

        It overtakes no request that could have been served: whichever flow waits holds too many, or none is free.
        """
        if flow.waiting or not self.has_room(flow):
            return False
        flow.held += 1
        self.free -= 1
        return True

    def give_back(self, flow: Flow) -> None:
        """Ends the use of one, which the next request in turn takes."""
        flow.held -= 1
        self.free += 1
        if self.length:
            self.serve()

    def resize(self, capacity: int) -> None:
        """Sets how many connections may be used. Those in use stay so."""
        self.free += capacity - self.capacity
        self.capacity = capacity
        self.serve()

    def line_up(self, flow: Flow, key: str) -> Turn:
        """Puts a request into the queue. Its future is done when it has been given one.

        Raises NoFreeConnection where too many requests wait. If only all together are too many, then the last request
        of the organisation with the longest line is refused, which may be another one.
        """
        bounds = self._bounds
        if flow.waiting >= bounds.of_organisation:
            raise self.refusal(f"{flow.waiting} requests of this organisation wait for one already")
        if self.length >= bounds.in_total:
            self._refuse_one(flow)
        turn: Turn = asyncio.get_running_loop().create_future()
        flow.add(key, turn)
        self._lined_up[flow] = None
        self.length += 1
        return turn

    def leave(self, flow: Flow, key: str, turn: Turn) -> None:
        """Removes a request that has stopped waiting; what it was given in this very turn goes to the next one."""
        if turn.done() and not turn.cancelled():
            if turn.exception() is None:
                self.give_back(flow)
            return
        before = flow.waiting
        flow.remove(key, turn)
        self.length -= before - flow.waiting
        if not flow.waiting:
            self._lined_up.pop(flow, None)

    def serve(self) -> None:
        """Gives what is free to the requests whose turn it is."""
        while self.length and self.free > 0:
            may_take = (flow for flow in self._lined_up if self.has_room(flow))
            flow = min(may_take, key=lambda flow: (flow.held, flow.served), default=None)
            if flow is None:
                return
            self._serve_next(flow)

    def refusal(self, why: str) -> NoFreeConnection:
        """Returns the fault for a request that gets none, and counts it."""
        self.refusals += 1
        return NoFreeConnection(why)

    def _serve_next(self, flow: Flow) -> None:
        turn = flow.next()
        self.length -= 1
        if not flow.waiting:
            self._lined_up.pop(flow, None)
        if not turn.done():  # cancelled in this very turn, before its task could leave
            self._turns += 1
            flow.served = self._turns
            flow.held += 1
            self.free -= 1
            turn.set_result(None)

    def _refuse_one(self, newcomer: Flow) -> None:
        longest = max(self._lined_up, key=lambda flow: flow.waiting)
        refusal = self.refusal(f"{self.length} requests wait for one already")
        if longest.waiting <= newcomer.waiting + 1:
            raise refusal
        turn = longest.last()
        self.length -= 1
        if not turn.done():
            turn.set_exception(refusal)
