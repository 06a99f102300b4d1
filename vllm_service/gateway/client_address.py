"""Whose address a request comes from: the connection's own, unless a proxy that is trusted says for whom it asks."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


class ClientAddresses:
    """Reads X-Forwarded-For from the right: the last address that is no trusted proxy is the client's."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """The client's address; None when the connection has none (a Unix socket)."""
        if not self._trusted or not self._is_trusted(peer):
            return peer or None
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        for text in reversed(forwarded.decode("latin-1").split(",")):
            address = text.strip()
            if not address:
                continue
            if not _is_address(address):
                break
            if not self._is_trusted(address):
                return address
        return peer

    def _is_trusted(self, address: str) -> bool:
        return _is_address(address) and any(ip_address(address) in network for network in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
