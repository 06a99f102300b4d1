"""Where a load-balancing endpoint's worker serves HTTP."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"
HEALTH_CHECK_PATH = "/ping"


@dataclass(frozen=True)
class WorkerAddress:
    """The two ports of a worker on the loopback address, and the path of its health check."""

    port: int
    health_port: int
    health_path: str = HEALTH_CHECK_PATH

    @property
    def health_url(self) -> str:
        """Returns the URL of the health check."""
        return f"http://{LOOPBACK}:{self.health_port}/{self.health_path.removeprefix('/')}"

    def url(self, target: str) -> str:
        """Returns the URL of a path with its query, both encoded already. The path begins with a slash."""
        return f"http://{LOOPBACK}:{self.port}{target}"


def free_address(variables: Mapping[str, str]) -> WorkerAddress:
    """Returns two ports that are free now. variables: the worker's environment. Raises OSError."""
    with socket.socket() as first, socket.socket() as second:  # both open at once: two different ports
        for listener in (first, second):
            listener.bind((LOOPBACK, 0))
        health_path = variables.get("HEALTH_CHECK_PATH") or HEALTH_CHECK_PATH
        return WorkerAddress(first.getsockname()[1], second.getsockname()[1], health_path)
