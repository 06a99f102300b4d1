"""Limits of a caller's connection: sizes, times, counts."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.errors import BodyTooLarge, HeadTooLarge


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Sizes in bytes, times in seconds."""

    #: The request line and all headers together.
    head_bytes: int = 32 * 2**10
    headers: int = 128
    body_bytes: int = 20 * 2**20
    #: Of a request to a path that takes no large body.
    small_body_bytes: int = 65_536
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
    #: Of one address that is no trusted proxy's; None: a quarter of `connections`.
    address_connections: int | None = None
    #: Of all connections: requests and what is not sent yet. Of one connection, 16 KiB are not counted.
    buffered_bytes: int = 256 * 2**20
    #: Requests of one connection that are read ahead of the one being answered.
    pipelined: int = 16
    #: As many bytes of them end the reading ahead, too.
    pipelined_bytes: int = 65_536

    def head_too_large(self) -> HeadTooLarge:
        """Returns the error for a head beyond its limits."""
        return HeadTooLarge(
            f"The request's head is larger than {self.head_bytes} bytes, or has more than {self.headers} headers."
        )

    def body_too_large(self, most_bytes: int) -> BodyTooLarge:
        """Returns the error for a body that is larger than a request to its path may have."""
        if most_bytes < self.body_bytes:
            return BodyTooLarge(f"The body is larger than {most_bytes} bytes; this path takes no large body.")
        return BodyTooLarge(f"The body is larger than MAX_BODY_BYTES, {self.body_bytes} bytes.")
