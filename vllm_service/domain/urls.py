"""Finds the fault of a URL that no request can reach, when it is read and not at the first request."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

#: Printable ASCII without the space, a backslash and what HTML or a shell leaves behind.
_PLAIN = re.compile(r"[!-\[\]-~]+")
# An underscore is no part of a host name by RFC 1123, but of many names in a container's network.
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_LONGEST_NAME = 253
_FORM = "expected a URL like https://host/v1"


def url_fault(text: str, *, with_user: bool = False, with_query: bool = False) -> str | None:
    """Returns why no request can reach this URL, and what to write; None for a good one.

    The text itself is not quoted, since it may hold a password.
    """
    if not text.isascii():
        return f"{_FORM} of ASCII characters; write another host in its xn-- form and a path with %XX"
    if not _PLAIN.fullmatch(text):
        return f"{_FORM}, without spaces and control characters"
    try:
        parts = urlsplit(text)
    except ValueError:
        return f"{_FORM}; an IPv6 address stands in brackets: http://[::1]:8000/v1"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return _FORM
    if ("@" in parts.netloc and not with_user) or parts.fragment or (parts.query and not with_query):
        return f"{_FORM}, without user name, query and fragment; a key belongs into api_key_env"
    return _port_fault(parts) or _host_fault(parts)


def _port_fault(parts: SplitResult) -> str | None:
    try:
        port = parts.port
    except ValueError:
        port = 0
    return "the port is not a number from 1 to 65535" if port == 0 else None


def _host_fault(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return None if _is_ipv6(host) else "the address in brackets is not an IPv6 address"
    name = host.removesuffix(".")
    labels = name.split(".")
    if not name:
        return f"the host is missing; {_FORM}"
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        return (
            f"the host is not a name that can exist: at most {_LONGEST_NAME} characters, of which each part between "
            "dots has 1 to 63 letters, digits and hyphens"
        )
    if labels[-1].isdigit() and not _is_ipv4(name):
        return "the host is neither a name nor an IPv4 address of four numbers from 0 to 255"
    return None


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_ipv4(name: str) -> bool:
    """Returns whether the name is an address as the system's resolver takes it, which also takes 127.1."""
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return True
