"""What the days of a summary cost by part, as lines below its table and in its JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_service.domain.money import to_usd
from vllm_service.domain.spend import WORKER_PARTS, ProviderSpend, Spend, SpendPart

#: Pico-dollars that show as a millionth of a dollar.
_LEAST = 500_000


def spend_lines(days: Sequence[ProviderSpend]) -> list[str]:
    """Returns a line for each provider whose workers' seconds or bill are known, and one for all together."""
    lines = []
    for provider in sorted({day.provider for day in days}):
        spend = Spend.of(day for day in days if day.provider == provider)
        if parts := _parts(spend):
            lines.append(f"{provider}: {parts}; {_bases(spend)}.")
    whole = Spend.of(days)
    if whole.lines:
        saved = whole.saved_picousd
        than = "less" if (saved or 0) >= 0 else "more"
        against = "" if saved is None else f", {_dollars(abs(saved))} {than} than the baseline"
        lines.append(f"All together {_dollars(whole.total_picousd)}, {_bases(whole)}{against}.")
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


def _parts(spend: Spend) -> str:
    """Returns what was spent on workers and on a bill's other lines; empty where it was on requests by tokens alone."""
    amounts = spend.by_part()
    shown = []
    if shares := spend.worker_shares():
        used = ", ".join(f"{_name(part)} {100 * share:.1f} %" for part, share in shares.items())
        shown.append(f"workers {_dollars(sum(amounts.get(part, 0) for part in WORKER_PARTS))}: {used}")
    # What a bill's rounded amounts are more than each other cannot be shown: it is in the sums.
    others = {part: amount for part, amount in amounts.items() if abs(amount) >= _LEAST and part not in WORKER_PARTS}
    if shown or others.keys() - {SpendPart.REQUESTS}:
        shown += [f"{_name(part)} {_dollars(amount)}" for part, amount in others.items()]
    return ", ".join(shown)


def _dollars(picousd: int) -> str:
    return f"{'-' if picousd < 0 else ''}${to_usd(abs(picousd)):.6f}"


def _bases(spend: Spend) -> str:
    bases = spend.by_basis()
    if len(bases) == 1:
        return next(iter(bases)).value
    return ", ".join(f"{basis.value} {_dollars(amount)}" for basis, amount in bases.items())


def _name(part: str) -> str:
    return part.replace("_", " ")
