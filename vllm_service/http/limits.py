"""What a caller may ask of a connection: sizes, times, counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes in bytes, times in seconds.

    head: request line and headers. body_idle: between two pieces of a body. keep_alive: between requests.
    stalled_write: how long an answer waits for a caller who does not read. pipelined: requests read ahead of the one
    that is being answered.
    """

    head_bytes: int = 32 * 2**10
    headers: int = 128
    body_bytes: int = 20 * 2**20
    head_seconds: float = 15.0
    body_seconds: float = 120.0
    body_idle_seconds: float = 20.0
    keep_alive_seconds: float = 75.0
    stalled_write_seconds: float = 60.0
    connections: int = 10_000
    pipelined: int = 16
