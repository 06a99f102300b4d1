"""Shares connections out between addresses: each has a limit, and at the total one gives way to a new one."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Protocol

from vllm_service.http.addresses import AddressRecord

#: How many connections that may be closed are found at once, so that a flood of new ones does not search each time.
_FOUND_AT_ONCE = 256
#: Least time between two searches.
_SEARCH_INTERVAL_SECONDS = 0.05
#: So many connections beyond the limit get an answer; more are cut at once.
_ANSWERED_BEYOND = 256


class Connection(Protocol):
    """A caller's connection."""

    #: None without an address.
    record: AddressRecord | None
    #: The other end is a trusted proxy.
    is_of_proxy: bool
    #: A request has begun to come and is not complete.
    is_receiving: bool

    @property
    def is_refused(self) -> bool:
        """True if it has been refused and is only open so that the refusal arrives."""
        ...

    @property
    def last_active(self) -> float:
        """The loop's time of the last byte."""
        ...

    @property
    def is_waiting(self) -> bool:
        """True if no request of it is being answered or waits for its turn."""
        ...

    def disconnect(self) -> None:
        """Ends it at once."""
        ...


class ConnectionShare:
    """Counts connections by address. Trusted proxies have no share: all clients come through them."""

    def __init__(self, most: int, most_of_address: int | None) -> None:
        self._most = most
        self.most_of_address = max(1, most // 4) if most_of_address is None else most_of_address
        #: Connections that may be closed, the best last.
        self._found: list[Connection] = []
        self._next_search = 0.0

    def opened(self, connection: Connection, count: int, others: Iterable[Connection], now: float) -> str | None:
        """Counts a new connection; returns why it must be refused, or None.

        A full server closes a connection without a request to answer of the address that has most, if that has more
        than the new one's address: whoever hoards connections gives way. A proxy's many connections are of many
        clients: they are no hoard, and give way only to another one of a proxy. count: all open ones, the new one
        included.
        """
        record = connection.record
        if record is not None:
            record.connections += 1
            if record.connections > self.most_of_address and not connection.is_of_proxy:
                return f"This address has too many connections, more than {self.most_of_address}"
        if count > self._most and not self._closes_another(connection, others, now):
            return f"The gateway has too many connections, more than {self._most}"
        return None

    def lost(self, connection: Connection) -> None:
        """Counts that a connection has ended."""
        if connection.record is not None:
            connection.record.connections -= 1

    def must_cut(self, count: int) -> bool:
        """Returns true where so many are open that not even a refusal can be written to each."""
        return count > self._most + _ANSWERED_BEYOND

    def _closes_another(self, new: Connection, others: Iterable[Connection], now: float) -> bool:
        own = 1 if new.is_of_proxy else max(1, _connections(new))
        if not self._found and now >= self._next_search:
            waiting = (each for each in others if each.is_waiting and _connections(each) > 1)
            self._found = heapq.nsmallest(_FOUND_AT_ONCE, waiting, key=_order)
            self._found.reverse()
            self._next_search = now + _SEARCH_INTERVAL_SECONDS
        while self._found:
            given = self._found[-1]
            if not given.is_waiting:
                self._found.pop()
            elif _connections(given) > own and (new.is_of_proxy or not given.is_of_proxy):
                self._found.pop().disconnect()
                return True
            else:
                return False
        return False


def _connections(connection: Connection) -> int:
    return 0 if connection.record is None else connection.record.connections


def _order(connection: Connection) -> tuple[bool, int, bool, bool, float]:
    """Sorts proxies last, and the address with most connections first.

    Of an address refused ones come first, then idle ones, then those that send; of each, the longest inactive one.
    """
    is_refused = connection.is_refused
    number = -_connections(connection)
    return connection.is_of_proxy, number, not is_refused, connection.is_receiving, connection.last_active
