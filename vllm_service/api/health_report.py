"""Reduces the statuses of the gateway's parts to one health status with its reasons. Pure, without HTTP."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from vllm_service.api.dependencies import Dependencies
from vllm_service.catalog.model import Catalog, PublicModel
from vllm_service.domain.status import Circuit, KeysState, LedgerState, ProviderCircuit, QuotaState, Statuses

_WORST_FIRST = (Circuit.OPEN, Circuit.HALF_OPEN, Circuit.CLOSED)
DEFAULT_USE_CASE = "chat"
#: A row of the ledger that waits for so long says that the database does not answer. Rows usually wait 0.2 s.
LATE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """The gateway's health."""

    #: `healthy`, `initializing`, `degraded` or `unhealthy`, as /health answers it.
    name: str
    #: Empty when healthy.
    reasons: tuple[str, ...] = ()

    @property
    def http_status(self) -> int:
        """Returns 200 for healthy, 500 for unhealthy, 503 for anything between."""
        return {"healthy": 200, "unhealthy": 500}.get(self.name, 503)


def health_status(dependencies: Dependencies) -> HealthStatus:
    """Returns the status and the reasons for it.

    Unhealthy: no request can succeed. Degraded: a model has no provider, rows of the ledger cannot be written, or
    memory stands in for a store that does not answer.
    A provider whose circuit is open is no reason by itself: while another serves its models, callers notice nothing.
    """
    catalog = dependencies.catalog()
    breakers = dependencies.breakers
    server = dependencies.server
    if not server.is_listening:
        return HealthStatus("initializing", ("the start is not complete",))
    ledger = dependencies.statuses.of(LedgerState)
    switched_off = dependencies.switched_off
    # The catalog lists a model once for each of its names.
    models = {model.name: model for model in catalog.models.values()}
    left = sorted(name for name, model in models.items() if not available_providers(model, breakers, switched_off))
    refusing = tuple(_refusing(dependencies.statuses))
    if refusing:
        return HealthStatus("unhealthy", refusing)
    if models and len(left) == len(models):
        reason = "every provider of every model is failing or scaled down"
        return HealthStatus("unhealthy", (reason, *_scaled_down(models.values(), switched_off)))
    reasons = [f"every provider of {name} is failing or scaled down" for name in left]
    reasons.extend(_scaled_down((models[name] for name in left), switched_off))
    reasons.extend(_standing_in(dependencies.statuses))
    if ledger is not None:
        reasons.extend(_ledger_reasons(ledger))
    if not models:
        reasons.append("no model is configured")
    if server.is_stopping:
        reasons.append("the gateway is stopping")
    return HealthStatus("degraded", tuple(reasons)) if reasons else HealthStatus("healthy")


def _scaled_down(models: Iterable[PublicModel], switched_off: Mapping[str, str]) -> list[str]:
    """Returns the reason of each endpoint that may have no worker and could serve one of these models."""
    names = {offer.provider for model in models for offer in model.offers}
    return [f"{name} is scaled down: {reason}" for name, reason in switched_off.items() if name in names]


def storage_reasons(statuses: Statuses) -> list[str]:
    """Returns what the stores cannot do now, for callers without a key: no names and no numbers."""
    reasons = [*_refusing(statuses), *_standing_in(statuses)]
    ledger = statuses.of(LedgerState)
    if ledger is not None and next(_ledger_reasons(ledger), None) is not None:
        reasons.append("rows of the ledger cannot be written")
    return reasons


def _refusing(statuses: Statuses) -> Iterator[str]:
    """Yields why a store makes this process refuse every request."""
    quotas = statuses.of(QuotaState)
    keys = statuses.of(KeysState)
    if quotas is not None and quotas.is_failing:
        yield "limits cannot be checked, so every request is refused"
    if keys is not None and not keys.is_usable:
        yield "no key could be looked up for minutes, so every request is refused"


def _standing_in(statuses: Statuses) -> Iterator[str]:
    """Yields what memory stands in for while a store does not answer."""
    quotas = statuses.of(QuotaState)
    keys = statuses.of(KeysState)
    if quotas is not None and quotas.is_counting_alone:
        yield "Redis does not answer: this process counts alone, and gives out its share of each limit"
    if keys is not None and keys.is_failing and keys.is_usable:
        yield "keys cannot be looked up: those in memory are used on, others are refused"


def _ledger_reasons(ledger: LedgerState) -> Iterator[str]:
    """Yields the ledger's reasons: a refusal until it is mended, and after lost rows until the process restarts."""
    if ledger.refusal is not None:
        yield (
            f"the database refuses rows of the ledger: {ledger.refused or 0} are lost, {ledger.queued} wait. "
            f"{ledger.refusal}"
        )
    elif ledger.is_failing or (ledger.oldest_queued_seconds or 0.0) > LATE_SECONDS:
        lost = f", {ledger.dropped} are lost" if ledger.dropped else ""
        yield f"rows of the ledger cannot be written: {ledger.queued} wait{lost}"


def available_providers(
    model: PublicModel, breakers: Mapping[str, ProviderCircuit], switched_off: Collection[str]
) -> list[str]:
    """Returns the names of the model's providers that may be tried, in the configured order.

    Their circuit is not open, and RunPod lets them have a worker.
    """
    return [
        offer.provider
        for offer in model.offers
        if offer.provider not in switched_off
        and (offer.provider not in breakers or breakers[offer.provider].circuit is not Circuit.OPEN)
    ]


def worst_circuit(breakers: Mapping[str, ProviderCircuit]) -> Circuit | None:
    """Returns the worst state of all breakers, open before half open before closed; None where there are none."""
    present = {state.circuit for state in breakers.values()}
    return next((circuit for circuit in _WORST_FIRST if circuit in present), None)


def use_cases(catalog: Catalog) -> dict[str, list[PublicModel]]:
    """Returns models by capability; a model without configured capabilities counts as one for chat."""
    found: dict[str, list[PublicModel]] = {}
    for model in {model.name: model for model in catalog.models.values()}.values():
        for use_case in sorted(model.capabilities) or [DEFAULT_USE_CASE]:
            found.setdefault(use_case, []).append(model)
    return found


def shown_address(url: str) -> str:
    """Returns a URL without credentials and query, which may be secrets."""
    parsed = urlsplit(url)
    host = parsed.netloc.rpartition("@")[2]
    return f"{parsed.scheme}://{host}{parsed.path}"
