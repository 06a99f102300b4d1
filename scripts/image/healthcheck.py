"""The image's HEALTHCHECK: /ping where HTTP is served, else that the first process is a worker. Only stdlib.

RunPod does not read it: there the heartbeat, and /ping on load-balancing endpoints, say how a worker does. It is for
Docker, Compose and podman.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path

HEALTHY, UNHEALTHY = 0, 1
LIVING = frozenset({200, 204})  # 204: the engine is loading (docs/operations.md)
TIMEOUT_SECONDS = 4


def check(environment: Mapping[str, str], first_process: Path = Path("/proc/1")) -> int:
    """Docker's exit codes: 0 healthy, 1 not."""
    port = environment.get("PORT_HEALTH") or environment.get("PORT")
    return _ping(int(port)) if port and not environment.get("RUNPOD_WEBHOOK_GET_JOB") else _lives(first_process)


def _ping(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/ping")
        return HEALTHY if connection.getresponse().status in LIVING else UNHEALTHY
    except OSError:
        return UNHEALTHY
    finally:
        connection.close()


def _lives(process: Path) -> int:
    """A zombie has an empty command line."""
    try:
        return HEALTHY if b"handler" in (process / "cmdline").read_bytes() else UNHEALTHY
    except OSError:
        return UNHEALTHY


if __name__ == "__main__":
    sys.exit(check(os.environ))
