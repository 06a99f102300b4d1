"""From what the parts say of themselves to one status, and why. No HTTP here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vllm_service.api.dependencies import Dependencies
from vllm_service.catalog.model import Catalog, PublicModel
from vllm_service.domain.status import Circuit, LedgerState, ProviderCircuit, QuotaState

_WORST_FIRST = (Circuit.OPEN, Circuit.HALF_OPEN, Circuit.CLOSED)
DEFAULT_USE_CASE = "chat"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`status` as /health answers it, and the reasons for anything but healthy."""

    status: str
    reasons: tuple[str, ...] = ()

    @property
    def http_status(self) -> int:
        """200, 503 or 500."""
        return {"healthy": 200, "unhealthy": 500}.get(self.status, 503)


def judge(parts: Dependencies) -> Verdict:
    """Returns the status, and the reasons for it.

    Unhealthy: no request can succeed. Degraded: a model has no provider, or rows of the ledger cannot be written.

    A provider whose circuit is open is no reason by itself: as long as another serves its models, callers see nothing.
    """
    catalog, breakers, server = parts.catalog(), parts.breakers, parts.server
    if not server.is_listening:
        return Verdict("initializing", ("the start is not complete",))
    ledger, quotas = parts.statuses.of(LedgerState), parts.statuses.of(QuotaState)
    models = {model.name: model for model in catalog.models.values()}
    left = sorted(name for name, model in models.items() if not available(model, breakers))
    if quotas is not None and quotas.is_failing:
        return Verdict("unhealthy", ("limits cannot be checked, so no request is let in",))
    if models and len(left) == len(models):
        return Verdict("unhealthy", ("every provider of every model is failing",))
    reasons = [f"nobody serves {name} now" for name in left]
    if ledger is not None:
        reasons.extend(_of_ledger(ledger))
    if not models:
        reasons.append("no model is configured")
    if server.is_stopping:
        reasons.append("the gateway is stopping")
    return Verdict("degraded", tuple(reasons)) if reasons else Verdict("healthy")


def _of_ledger(ledger: LedgerState) -> Iterator[str]:
    """A refusal rings until it is mended, and where rows were lost until the process is restarted."""
    if ledger.refusal is not None:
        yield (
            f"the database refuses rows of the ledger: {ledger.refused or 0} are lost, {ledger.queued} wait. "
            f"{ledger.refusal}"
        )
    elif ledger.is_failing:
        yield "rows of the ledger cannot be written and wait"


def available(model: PublicModel, breakers: Mapping[str, ProviderCircuit]) -> list[str]:
    """The model's providers that may be tried, in order."""
    return [
        offer.provider
        for offer in model.offers
        if offer.provider not in breakers or breakers[offer.provider].circuit is not Circuit.OPEN
    ]


def worst_circuit(breakers: Mapping[str, ProviderCircuit]) -> Circuit | None:
    """Open if any is; None where there are no breakers."""
    present = {state.circuit for state in breakers.values()}
    return next((circuit for circuit in _WORST_FIRST if circuit in present), None)


def use_cases(catalog: Catalog) -> dict[str, list[PublicModel]]:
    """Models by what they can do; one that says nothing can chat."""
    found: dict[str, list[PublicModel]] = {}
    for model in {model.name: model for model in catalog.models.values()}.values():
        for use_case in sorted(model.capabilities) or [DEFAULT_USE_CASE]:
            found.setdefault(use_case, []).append(model)
    return found


def shown_address(url: str, *, in_full: bool) -> str:
    """Without credentials and query, which may be secrets; the path, which names an endpoint, only in full."""
    parsed = urlsplit(url)
    host = parsed.netloc.rpartition("@")[2]
    return f"{parsed.scheme}://{host}{parsed.path if in_full else ''}"
