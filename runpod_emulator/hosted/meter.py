"""The meter of a provider: exact dollars per request, and counts of what happened."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

KEPT_LINES = 100_000
#: The counts in /stats, in their order.
COUNTED = (
    *("requests", "in_flight", "most_in_flight", "completed", "cancelled", "broken"),
    *("bytes_in", "bytes_out", "events_out", "unauthorized"),
)


@dataclass(frozen=True, slots=True)
class BillLine:
    """One charge."""

    #: The answer's id.
    id: str
    #: The client's x-request-id.
    request_id: str | None
    operation: str
    model: str
    prompt_tokens: int
    #: A part of `prompt_tokens`.
    cached_tokens: int
    completion_tokens: int
    usd: Decimal
    #: `completed`, `cancelled` by the client, or `broken` by a fault.
    outcome: str


class Meter:
    """Keeps the totals since the start, and the last `KEPT_LINES` charges."""

    def __init__(self) -> None:
        self.lines: deque[BillLine] = deque(maxlen=KEPT_LINES)
        self.total_usd = Decimal(0)
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._charges = 0

    def request_started(self) -> None:
        """Counts a request that has arrived."""
        self.counts["requests"] += 1
        self.counts["in_flight"] += 1
        self.counts["most_in_flight"] = max(self.counts["most_in_flight"], self.counts["in_flight"])

    def request_ended(self) -> None:
        """Counts a request that has ended in any way."""
        self.counts["in_flight"] -= 1

    def charge(self, line: BillLine) -> None:
        """Adds one line to the bill."""
        self.lines.append(line)
        self._charges += 1
        self.total_usd += line.usd
        self._tokens.update(prompt=line.prompt_tokens, cached=line.cached_tokens, completion=line.completion_tokens)
        self.counts[line.outcome] += 1

    def bill(self) -> dict[str, Any]:
        """Returns the bill as JSON. Money is text, because a JSON number would be read as a float."""
        return {
            "usd": f"{self.total_usd:f}",
            "requests": self._charges,
            "prompt_tokens": self._tokens["prompt"],
            "cached_tokens": self._tokens["cached"],
            "completion_tokens": self._tokens["completion"],
            "lines": [_to_json(line) for line in self.lines],
        }

    def stats(self) -> dict[str, Any]:
        """Returns the counts since the start as JSON."""
        return {name: self.counts[name] for name in COUNTED} | {
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "faults": dict(self.faults),
        }


def _to_json(line: BillLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "request_id": line.request_id,
        "operation": line.operation,
        "model": line.model,
        "prompt_tokens": line.prompt_tokens,
        "cached_tokens": line.cached_tokens,
        "completion_tokens": line.completion_tokens,
        "usd": f"{line.usd:f}",
        "outcome": line.outcome,
    }
