"""Finds the fault of a URL when it is read and not at the first request, and what a network would see of a key."""

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
#: The first number of loopback's IPv4 addresses.
_LOOPBACK_NETWORK = 127
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


def is_plain_beyond_this_machine(url: str) -> bool:
    """Returns true if a key that is sent to this URL crosses a network where others can read it.

    That is http to any host that is not this machine itself. Networks that are called private are no exception: a
    container's, a cluster's or an office's has other users too. Names are not resolved, since the answer may change.
    """
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_this_machine((parts.hostname or "").removesuffix("."))


def is_page_of_this_machine(origin: str) -> bool:
    """Returns true if a browser's Origin header is that of a page of this machine. `null`, of no page, is none."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and _is_this_machine((parts.hostname or "").removesuffix("."))


def is_name_of_no_site(host: str) -> bool:
    """Returns true if a Host header is an address, or a name that no site elsewhere can have.

    A page can make its own site's name lead to 127.0.0.1 (DNS rebinding). Its requests then reach this machine with
    that name as Host, and those by GET without Origin. Public DNS has no name without a dot, and none below these two.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return False
    if "." not in name or ":" in name or name.endswith((".localhost", ".internal")):
        return True
    return name.rpartition(".")[2].isdigit()  # an IPv4 address in any form, since no top-level domain is a number


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    if _is_ipv4(host):
        return socket.inet_aton(host)[0] == _LOOPBACK_NETWORK
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return (address.ipv4_mapped or address).is_loopback


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
