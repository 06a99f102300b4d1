"""Which paths of the engine a caller may ask for. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

MAX_LENGTH = 1024
# No scheme, host, percent escape or backslash can be written in these characters; dots and slashes are looked at below.
CHARACTERS = re.compile(r"/[A-Za-z0-9._~/-]*")


def is_plain(path: str) -> bool:
    """A path, without query, that means what it says: no host, no escapes, no empty and no dot segments."""
    segments = path.split("/")
    odd_segments = "" in segments[1:-1] or {".", ".."} & set(segments)
    return len(path) <= MAX_LENGTH and bool(CHARACTERS.fullmatch(path)) and not odd_segments


def is_allowed(path: str, allowed: Collection[str]) -> bool:
    """Whether the path is one of the allowed ones, or lies below one of them."""
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in allowed)
