"""Reads the URL of a database or a Redis before anything connects: its address, its files for TLS."""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit


def address_of(url: str, otherwise: str) -> str:
    """Returns host and port of a URL, without user and password. otherwise: for a URL that cannot be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return otherwise
    return parts.netloc.rpartition("@")[2] or "its local socket"


def options_of(url: str) -> dict[str, list[str]]:
    """Returns the options behind the question mark; none of a URL that the driver will refuse as a whole."""
    try:
        return parse_qs(urlsplit(url).query)
    except ValueError:
        return {}


def missing_file(url: str, names: Iterable[str]) -> str | None:
    """Returns which file of these options cannot be read, and what to do; None where all can."""
    options = options_of(url)
    for name in names:
        for path in options.get(name, ()):
            if not os.access(path, os.R_OK):
                return f"{name}: there is no file {path} that can be read. Correct the path, or put the file there."
    return None
