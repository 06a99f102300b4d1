"""The simplest router: the model's providers in the order in which they are configured."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.catalog.model import Catalog
from vllm_service.domain.plan import ListedWorkers, Plan, Step, WorkerTarget
from vllm_service.domain.requests import RequestFacts
from vllm_service.domain.usage import Usage
from vllm_service.errors import InvalidRequest, ModelNotFound

REASON = "configured order"


class LearnsNothing:
    """An AttemptObserver (plan.py)."""

    def waited(self, seconds: float) -> None:
        """See plan.AttemptObserver."""

    def first_token(self, now_seconds: float) -> None:
        """See plan.AttemptObserver."""

    def succeeded(self, usage: Usage | None, now_seconds: float, *, is_timed: bool = True) -> None:
        """See plan.AttemptObserver."""

    def failed(self, status: int, retry_after_seconds: float | None, now_seconds: float) -> None:
        """See plan.AttemptObserver."""

    def abandoned(self, now_seconds: float) -> None:
        """See plan.AttemptObserver."""


class ConfiguredOrder:
    """A Router (plan.py) that learns nothing; a provider that the caller names in a header is the only one tried."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._plans = {
            name: Plan(tuple(Step(offer.provider, offer.model) for offer in model.offers), REASON)
            for name, model in catalog.models.items()
        }

    def plan(self, facts: RequestFacts, now_seconds: float) -> Plan:
        """See plan.Router."""
        plan = self._plans.get(facts.model)
        if plan is None:
            raise ModelNotFound(facts.model, list(self._plans))
        if facts.provider is None:
            return plan
        steps = tuple(step for step in plan.steps if step.provider == facts.provider)
        if not steps:
            message = f"The model {facts.model!r} is not configured at the provider that was asked for."
            raise InvalidRequest(message, details={"model": facts.model})
        return Plan(steps, "the caller named the provider")

    def started(self, step: Step, facts: RequestFacts, now_seconds: float) -> LearnsNothing:
        """See plan.Router."""
        return LearnsNothing()

    def observe_health(
        self,
        provider: str,
        health: Mapping[str, object] | None,
        now_seconds: float,
        listed: ListedWorkers | None = None,
    ) -> None:
        """See plan.Router."""

    def observe_most_workers(self, provider: str, workers: int | None) -> None:
        """See plan.Router."""

    def worker_targets(self, now_seconds: float) -> tuple[WorkerTarget, ...]:
        """See plan.Router."""
        return ()
