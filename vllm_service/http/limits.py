"""Limits of a caller's connection: sizes, times, counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes in bytes, times in seconds."""

    #: The request line and all headers together.
    head_bytes: int = 32 * 2**10
    headers: int = 128
    body_bytes: int = 20 * 2**20
    #: From a request's first byte to the end of its head.
    head_seconds: float = 15.0
    #: From a request's first byte to the end of its body.
    body_seconds: float = 120.0
    #: Between two pieces of a request's head or body.
    body_idle_seconds: float = 20.0
    #: Between an answer and the next request.
    keep_alive_seconds: float = 75.0
    #: How long an answer waits for a caller who does not read.
    stalled_write_seconds: float = 60.0
    connections: int = 10_000
    #: Requests of one connection that are read ahead of the one being answered.
    pipelined: int = 16
