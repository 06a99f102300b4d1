"""What a provider did and what it charges: exact dollars per request, and counts of what really happened."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

KEPT_LINES = 100_000
COUNTED = (
    *("requests", "in_flight", "most_in_flight", "completed", "cancelled", "broken"),
    *("bytes_in", "bytes_out", "events_out", "unauthorized"),
)


@dataclass(frozen=True, slots=True)
class BillLine:
    """One charge. outcome: `completed`, `cancelled` by the client, or `broken` by a fault."""

    id: str
    request_id: str | None
    operation: str
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    usd: Decimal
    outcome: str


class Meter:
    """Totals are kept for ever, the last 100,000 lines with them."""

    def __init__(self) -> None:
        self.lines: deque[BillLine] = deque(maxlen=KEPT_LINES)
        self.total_usd = Decimal(0)
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._charges = 0

    def arrives(self) -> None:
        """A request."""
        self.counts["requests"] += 1
        self.counts["in_flight"] += 1
        self.counts["most_in_flight"] = max(self.counts["most_in_flight"], self.counts["in_flight"])

    def leaves(self) -> None:
        """It has ended, however it did."""
        self.counts["in_flight"] -= 1

    def charge(self, line: BillLine) -> None:
        """Adds one line to the bill."""
        self.lines.append(line)
        self._charges += 1
        self.total_usd += line.usd
        self._tokens.update(prompt=line.prompt_tokens, cached=line.cached_tokens, completion=line.completion_tokens)
        self.counts[line.outcome] += 1

    def bill(self) -> dict[str, Any]:
        """Money as text: it is exact."""
        return {
            "usd": f"{self.total_usd:f}",
            "requests": self._charges,
            "prompt_tokens": self._tokens["prompt"],
            "cached_tokens": self._tokens["cached"],
            "completion_tokens": self._tokens["completion"],
            "lines": [_to_json(line) for line in self.lines],
        }

    def stats(self) -> dict[str, Any]:
        """Counts since the start."""
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
