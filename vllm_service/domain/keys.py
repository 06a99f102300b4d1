"""Callers' keys: their tier, and the limits of the organisation that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from vllm_service.domain.roles import Role


class Tier(StrEnum):
    """A key's purpose, which sets how many requests it may make in a minute, and at once."""

    __hash__ = str.__hash__  # Enum's own is Python, and each request looks its limit up

    DEVELOPMENT = "development"
    PRODUCTION = "production"
    ENTERPRISE = "enterprise"


REQUESTS_PER_MINUTE = {Tier.DEVELOPMENT: 100, Tier.PRODUCTION: 1_000, Tier.ENTERPRISE: 10_000}
#: How many requests a key may have under way: a tenth, which keeps the minute's requests going at 6 s each.
CONCURRENT_REQUESTS = {tier: per_minute // 10 for tier, per_minute in REQUESTS_PER_MINUTE.items()}


@dataclass(frozen=True, slots=True)
class OrganisationLimits:
    """Quotas of one organisation, over UTC days and calendar months, and at any moment; None is no limit."""

    tokens_per_day: int | None = 10_000_000
    requests_per_day: int | None = 100_000
    tokens_per_month: int | None = 300_000_000
    picousd_per_month: int | None = None
    #: Requests under way, of all keys together. Without this limit the organisation's keys have none by their tier.
    concurrent_requests: int | None = 1_000


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A caller's key as it is stored: never the key itself."""

    #: Public: it appears in the ledger.
    id: str
    organisation: str
    tier: Tier = Tier.DEVELOPMENT
    limits: OrganisationLimits = OrganisationLimits()
    #: Whether answers carry cost_info and performance_info.
    annotate: bool = True
    #: The routing strategy of this key's requests; None is the model's.
    strategy: str | None = None
    #: What the key may see and do, by the table in `domain/roles.py`.
    role: Role = Role.CALLER
