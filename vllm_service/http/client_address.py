"""Whose address a request comes from: the connection's own, unless a proxy that is trusted says for whom it asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network
# Some proxies write the port too: 198.51.100.1:52110, [2001:db8::1]:52110.
_WITH_PORT = re.compile(r"\[([^\]]{2,45})\](?::\d{1,5})?|([0-9.]{7,15}):\d{1,5}")
_LONGEST = 64


class ClientAddresses:
    """Reads X-Forwarded-For from the right: the last address that is no trusted proxy is the client's.

    Each address has one spelling, whatever a proxy or the kernel writes: an IPv4 client is one client, also on a
    socket of IPv6 (`::ffff:198.51.100.1`).
    """

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """The client's address; None when the connection has none (a Unix socket)."""
        if not self._trusted and ":" not in peer:
            return peer or None
        own = _address(peer)
        if own is None or not self._is_trusted(own):
            return None if own is None else str(own)
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for text in reversed(forwarded.decode("latin-1").split(",")):
            if not (written := text.strip()):
                continue
            address = _address(written)
            if address is None:
                break
            if not self._is_trusted(address):
                return str(address)
        return str(own)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """None for what is no address."""
    if len(text) > _LONGEST:
        return None
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        text = match.group(1) or match.group(2)
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
