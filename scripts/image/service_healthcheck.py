"""The gateway image's HEALTHCHECK: whether GET /health/live answers 200. Only the standard library is imported.

It reads liveness, not readiness: restarting a container because a provider is down, or because it drains, cures
nothing.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping

# Docker's exit codes.
HEALTHY = 0
UNHEALTHY = 1
TIMEOUT_SECONDS = 4


def check(environment: Mapping[str, str]) -> int:
    """Returns HEALTHY or UNHEALTHY."""
    port = int(environment.get("SERVICE_PORT") or 8090)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/live")
        return HEALTHY if connection.getresponse().status == 200 else UNHEALTHY
    except (OSError, http.client.HTTPException):
        return UNHEALTHY
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(check(os.environ))
