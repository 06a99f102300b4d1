"""Heads of requests in other forms than the usual one: a whole URL as target, an offer of another protocol."""

from __future__ import annotations

import re

#: A target with scheme and host. A user name in it is a way to pass one host off as another, and is not served.
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]+)(?=[/?]|$)", re.IGNORECASE)
#: The headers of an offer to change the protocol.
_UPGRADE_HEADERS = (b"upgrade", b"connection", b"http2-settings")

Headers = list[tuple[bytes, bytes]]


def in_origin_form(method: bytes, target: bytes, headers: Headers) -> tuple[bytes, Headers] | None:
    """Returns target and headers of a request with a whole URL, which clients of proxies send, as those of its path.

    The URL's host counts, not Host's (RFC 9112, 3.2.2); a second Host stays, so that it is refused. Returns None for a
    target of another form; CONNECT's and OPTIONS' own stay as they are.
    """
    if (found := _ABSOLUTE_FORM.match(target)) is None:
        is_own_form = method == b"CONNECT" or (method == b"OPTIONS" and target == b"*")
        return (target, headers) if is_own_form else None
    path = target[found.end() :]
    hosts = [header for header in headers if header[0] == b"host"]
    others = [header for header in headers if header[0] != b"host"]
    return path if path.startswith(b"/") else b"/" + path, [*others, *hosts[1:], (b"host", found[1])]


def without_upgrade(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Returns the head of a request without its offer of another protocol, which HTTP allows a server to ignore."""
    keep = [b"%b: %b\r\n" % header for header in headers if header[0] not in _UPGRADE_HEADERS]
    if any(name == b"connection" and b"close" in value.lower() for name, value in headers):
        keep.append(b"connection: close\r\n")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, b"".join(keep))
