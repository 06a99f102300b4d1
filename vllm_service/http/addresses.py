"""Clients' addresses, and what is counted by them: requests, wrong keys, connections."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
# Some proxies write the port too: 198.51.100.1:52110, [2001:db8::1]:52110.
_WITH_PORT = re.compile(r"\[([^\]]{2,45})\](?::\d{1,5})?|([0-9.]{7,15}):\d{1,5}")
#: An IPv6 address with its port has 47; the rest is no address and need not be parsed.
_LONGEST_ADDRESS_CHARACTERS = 64
#: The bits of an IPv6 address that its owner chooses: a provider assigns at least a /64 to each customer.
_OWN_BITS = 64


class ClientAddresses:
    """Finds clients' addresses, which limits are counted by.

    Reads X-Forwarded-For from the right and takes the first address that is no trusted proxy's: everything to its left
    was sent by the client and may be forged. Each client has one spelling: an IPv4 client is the same client on an
    IPv6 socket (`::ffff:198.51.100.1`), and an IPv6 client is its /64, all of whose addresses it may use.
    """

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Returns the client's address, or None when the connection has none (a Unix socket)."""
        if not self._trusted and ":" not in peer:
            return peer or None
        own = _address(peer)
        if own is None or not self._is_trusted(own):
            return None if own is None else _counted_as(own)
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for text in reversed(forwarded.decode("latin-1").split(",")):
            if not (written := text.strip()):
                continue
            address = _address(written)
            if address is None:  # nothing to the left of garbage can be trusted
                break
            if not self._is_trusted(address):
                return _counted_as(address)
        return _counted_as(own)

    def is_proxy(self, peer: str) -> bool:
        """Returns true if the other end of the connection is a trusted proxy, through which many clients come."""
        own = _address(peer) if self._trusted else None
        return own is not None and self._is_trusted(own)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _counted_as(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((int(address) >> _OWN_BITS << _OWN_BITS, 128 - _OWN_BITS)))


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Returns the address in a text, an IPv4 one also where it is mapped into IPv6; None if it is no address."""
    if len(text) > _LONGEST_ADDRESS_CHARACTERS:
        return None
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        text = match.group(1) or match.group(2)
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@dataclass(frozen=True, slots=True)
class AddressLimits:
    """The limits of one address; None is no limit."""

    #: A bucket of so many requests, which fills within a second. It refuses nothing that the sliding window of
    #: storage/quotas allows, which all replicas share and which counts requests with a key once more.
    requests_per_second: int | None = None
    #: A bucket of so many wrong keys, which fills within a minute.
    wrong_keys_per_minute: int | None = None
    #: Different keys that are being looked up.
    keys_looked_up: int = 64


class _Bucket:
    """A token bucket as one number: the time at which it is full again."""

    __slots__ = ("_full_at", "_interval", "_slack")

    def __init__(self, most: int | None, seconds: float) -> None:
        self._full_at = 0.0
        #: The time in which one token comes back; 0: there are always tokens.
        self._interval = 0.0 if most is None else seconds / most
        #: The longest time to full at which a token is left. The millionth outweighs the rounding of sums.
        self._slack = math.inf if most is None else seconds - self._interval * (1 - 1e-6)

    def take(self, now: float) -> float:
        """Takes one token and returns 0; where none is left, takes nothing and returns the seconds until one is."""
        full_at = self._full_at
        if full_at < now:  # it is full, as most requests find it
            self._full_at = now + self._interval
            return 0.0
        if full_at - now > self._slack:
            return full_at - now - self._slack
        self._full_at = full_at + self._interval
        return 0.0

    def wait(self, now: float) -> float:
        """Returns the seconds until a token is there: 0 if one is."""
        return max(0.0, self._full_at - now - self._slack)


#: So many wrong keys of one address are remembered.
_REMEMBERED_WRONG_KEYS = 8


class AddressRecord:
    """One address and what it has taken of its limits. Times are the event loop's."""

    __slots__ = ("_most_looked_up", "_wrong", "connections", "looked_up", "name", "requests", "wrong_keys")

    def __init__(self, name: str, limits: AddressLimits) -> None:
        self.name = name
        #: Open connections.
        self.connections = 0
        self.requests = _Bucket(limits.requests_per_second, 1.0)
        self.wrong_keys = _Bucket(limits.wrong_keys_per_minute, 60.0)
        #: Secrets that are being looked up, each with the number of requests that wait for it.
        self.looked_up: dict[str, int] = {}
        self._most_looked_up = limits.keys_looked_up
        #: Hashes of the last wrong keys.
        self._wrong: tuple[int, ...] = ()

    def count_wrong(self, secret: str, now: float) -> None:
        """Counts a wrong key, but not one of the last few again.

        A client that repeats a revoked key guesses nothing, and must not lock out the others of its office.
        """
        mark = hash(secret)
        if mark not in self._wrong:
            self._wrong = (*self._wrong[1 - _REMEMBERED_WRONG_KEYS :], mark)
            self.wrong_keys.take(now)

    def begin_look_up(self, secret: str) -> bool:
        """Counts a look-up of this secret; returns False where too many other ones are under way."""
        known = self.looked_up
        if secret not in known and len(known) >= self._most_looked_up:
            return False
        known[secret] = known.get(secret, 0) + 1
        return True

    def end_look_up(self, secret: str) -> None:
        """Takes back what `begin_look_up` has counted."""
        left = self.looked_up[secret] - 1
        if left:
            self.looked_up[secret] = left
        else:
            del self.looked_up[secret]


#: A flood of made-up addresses must not fill the memory.
MAX_RECORDS = 50_000


class AddressTable:
    """The records by address. At the bound the oldest without connections goes: its limits then begin anew."""

    def __init__(self, limits: AddressLimits, max_records: int = MAX_RECORDS) -> None:
        self._limits = limits
        self._max_records = max_records
        self._records: dict[str, AddressRecord] = {}

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._records)

    def record(self, name: str) -> AddressRecord:
        """Returns the address's record, a new one where there is none."""
        records = self._records
        found = records.get(name)
        if found is None:
            if len(records) >= self._max_records:
                self._forget_oldest()
            found = records[name] = AddressRecord(name, self._limits)
        return found

    def _forget_oldest(self) -> None:
        """Drops one record. Those with connections move to the end: there are at most as many as connections."""
        records = self._records
        for _ in range(len(records)):
            name = next(iter(records))
            record = records.pop(name)
            if not (record.connections or record.looked_up):
                return
            records[name] = record
