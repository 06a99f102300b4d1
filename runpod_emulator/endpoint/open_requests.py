"""The requests that a load balancer has: what scaling and /health count instead of jobs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class OpenRequests:
    """The numbers of one endpoint's requests. A queue endpoint has none."""

    #: They wait for a worker.
    waiting: int = 0
    #: A worker has them.
    in_progress: int = 0
    #: Since the start: answered to the end, and without an answer or with a cut one.
    completed: int = 0
    failed: int = 0
