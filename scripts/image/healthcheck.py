"""The worker image's HEALTHCHECK: GET /ping where HTTP is served, else whether the first process is a worker.

It is for Docker, Compose and podman. RunPod does not read it: it uses the heartbeat, and /ping on load-balancing
endpoints. Only the standard library is imported, because it runs often.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path

# Docker's exit codes.
HEALTHY = 0
UNHEALTHY = 1
#: The statuses of a worker that is alive; 204: the engine is loading (docs/operations.md).
LIVING = frozenset({200, 204})
TIMEOUT_SECONDS = 4


def check(environment: Mapping[str, str], first_process: Path = Path("/proc/1")) -> int:
    """Returns HEALTHY or UNHEALTHY."""
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
    # The command line and not the mere directory: a zombie still has one, with an empty command line.
    try:
        return HEALTHY if b"handler" in (process / "cmdline").read_bytes() else UNHEALTHY
    except OSError:
        return UNHEALTHY


if __name__ == "__main__":
    sys.exit(check(os.environ))
