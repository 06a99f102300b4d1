"""Whether requests are sent to a second place when the first is slow to begin, and what that may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_service.routing.hedging import FirstBytes, HedgeBudget, HedgeSettings
from vllm_service.routing.plan import Step

HEADER = b"x-hedge"


@dataclass
class Hedging:
    """How slow each place is to begin, and what may be spent on asking two. is_on: for who asks for nothing."""

    settings: HedgeSettings = field(default_factory=HedgeSettings)
    is_on: bool = False

    def __post_init__(self) -> None:
        """The budget starts empty: it is earned."""
        self.budget = HedgeBudget(self.settings)
        self._first_bytes: dict[tuple[str, str], FirstBytes] = {}

    def wanted_by(self, headers: Mapping[bytes, bytes]) -> bool:
        """`x-hedge: on` or `off`, else as configured."""
        sent = headers.get(HEADER)
        return self.is_on if sent is None else sent == b"on"

    def delay_seconds(self, step: Step) -> float | None:
        """When the second is sent; None: never, too little is known of the first."""
        if self.settings.delay_seconds is not None:
            return self.settings.delay_seconds
        known = self._first_bytes.get((step.provider, step.model))
        return None if known is None else known.p95()

    def began(self, step: Step, seconds: float) -> None:
        """An answer's first byte came after so long."""
        known = self._first_bytes.get((step.provider, step.model))
        if known is None:
            known = self._first_bytes[step.provider, step.model] = FirstBytes(self.settings)
        known.add(seconds)
