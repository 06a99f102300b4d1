"""The gateway image's HEALTHCHECK: /health/live answers 200. Only stdlib.

Live, not ready: a container that is restarted since a provider is down, or since it drains, helps nobody.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping

HEALTHY, UNHEALTHY = 0, 1
TIMEOUT_SECONDS = 4


def check(environment: Mapping[str, str]) -> int:
    """Docker's exit codes: 0 healthy, 1 not."""
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
