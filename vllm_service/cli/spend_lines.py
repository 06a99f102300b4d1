"""What the days of a summary cost by part, as lines below its table and in its JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_service.domain.money import to_usd
from vllm_service.domain.spend import WORKER_PARTS, ProviderSpend, Spend


def spend_lines(days: Sequence[ProviderSpend]) -> list[str]:
    """Returns a line for each provider whose workers' seconds are known, and one for all together."""
    lines = []
    for provider in sorted({day.provider for day in days}):
        spend = Spend.of(day for day in days if day.provider == provider)
        if shares := spend.worker_shares():
            used = ", ".join(f"{_name(part)} {100 * share:.1f} %" for part, share in shares.items())
            amounts = spend.by_part()
            workers = sum(amounts.get(part, 0) for part in WORKER_PARTS)
            others = "".join(
                f", {_name(part)} ${to_usd(amount):.6f}" for part, amount in amounts.items() if part not in WORKER_PARTS
            )
            lines.append(f"{provider}: workers ${to_usd(workers):.6f}: {used}{others}; {_bases(spend)}.")
    whole = Spend.of(days)
    if whole.lines:
        saved = whole.saved_picousd
        against = "" if saved is None else f", ${to_usd(saved):.6f} less than the baseline"
        lines.append(f"All together ${to_usd(whole.total_picousd):.6f}, {_bases(whole)}{against}.")
    return lines


def spend_document(days: Sequence[ProviderSpend]) -> dict[str, Any]:
    """Returns the same for JSON: dollars by part and basis for each provider, and in total."""
    providers = sorted({day.provider for day in days})
    named = [{"provider": name} | _sums(Spend.of(day for day in days if day.provider == name)) for name in providers]
    return {"providers": named, "total": _sums(Spend.of(days))}


def _sums(spend: Spend) -> dict[str, Any]:
    return {
        "spent_usd": to_usd(spend.total_picousd),
        "parts_usd": {part.value: to_usd(amount) for part, amount in spend.by_part().items()},
        "bases_usd": {basis.value: to_usd(amount) for basis, amount in spend.by_basis().items()},
        "worker_shares": {part.value: share for part, share in spend.worker_shares().items()},
        "baseline_usd": to_usd(spend.baseline_picousd),
        "saved_usd": to_usd(spend.saved_picousd),
        "unpriced_requests": spend.unpriced_requests,
    }


def _bases(spend: Spend) -> str:
    bases = spend.by_basis()
    if len(bases) == 1:
        return next(iter(bases)).value
    return ", ".join(f"{basis.value} ${to_usd(amount):.6f}" for basis, amount in bases.items())


def _name(part: str) -> str:
    return part.replace("_", " ")
