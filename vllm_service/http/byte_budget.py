"""One budget of bytes over all connections: requests that are received or answered, and what is not sent yet."""

from __future__ import annotations

from typing import Protocol

#: Less than this of one connection is not counted, which spares the usual request all work here.
SMALL_BYTES = 16_384


class Holder(Protocol):
    """A connection that holds bytes."""

    #: It holds a request that is not complete, so that it can be refused.
    is_receiving: bool

    def refuse_for_bytes(self) -> None:
        """Refuses the request that is being received, and frees its bytes."""
        ...


class _Owner:
    """An organisation, or an address without a key, and what its connections hold."""

    __slots__ = ("held_bytes", "holders")

    def __init__(self) -> None:
        self.held_bytes = 0
        self.holders: dict[Holder, int] = {}


class ByteBudget:
    """Counts what each connection holds, by its owner.

    One owner has at most half: the others always have room. Where all is taken, the owner that holds most gives way:
    its requests that are not complete are refused, until the smaller one has room. A request of an owner that would
    itself hold most is refused.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._share_bytes = most_bytes // 2
        self.held_bytes = 0
        self._owners: dict[str, _Owner] = {}
        self._owner_names: dict[Holder, str] = {}

    def hold(self, holder: Holder, owner_name: str, size: int) -> bool:
        """Counts that the connection holds so many bytes now, which replaces what it held before.

        Returns False where there is no room for more; then it counts as before. To hold less always succeeds.
        """
        before = self._held_before(holder, owner_name)
        owner = self._owners.get(owner_name) or self._owners.setdefault(owner_name, _Owner())
        growth = size - before
        # One connection alone may have more than the share: a single answer can be as large.
        is_over_share = owner.held_bytes + growth > self._share_bytes and len(owner.holders) > (before > 0)
        if growth > 0 and (is_over_share or not self._has_room(owner, holder, growth)):
            self._forget_empty(owner_name)
            return False
        owner.held_bytes += growth
        self.held_bytes += growth
        if size:
            owner.holders[holder] = size
            self._owner_names[holder] = owner_name
        else:
            owner.holders.pop(holder, None)
            self._owner_names.pop(holder, None)
            self._forget_empty(owner_name)
        return True

    def release(self, holder: Holder) -> None:
        """Counts that the connection holds nothing any more."""
        name = self._owner_names.pop(holder, None)
        if name is not None:
            owner = self._owners[name]
            held = owner.holders.pop(holder)
            owner.held_bytes -= held
            self.held_bytes -= held
            self._forget_empty(name)

    def _held_before(self, holder: Holder, owner_name: str) -> int:
        """Returns what it holds for this owner. What it held for another one is released: the key has changed."""
        name = self._owner_names.get(holder)
        if name is None:
            return 0
        if name != owner_name:
            self.release(holder)
            return 0
        return self._owners[name].holders[holder]

    def _has_room(self, owner: _Owner, holder: Holder, growth: int) -> bool:
        """Makes room at the expense of the owner that holds most, if that is another one."""
        while self.held_bytes + growth > self._most_bytes:
            heaviest = max(self._owners.values(), key=lambda each: each.held_bytes)
            if heaviest is owner or heaviest.held_bytes <= owner.held_bytes + growth:
                return False
            given = next((each for each in heaviest.holders if each.is_receiving and each is not holder), None)
            if given is None:
                return False
            before = self.held_bytes
            given.refuse_for_bytes()
            if self.held_bytes >= before:
                return False
        return True

    def _forget_empty(self, name: str) -> None:
        if not self._owners[name].holders:
            del self._owners[name]
