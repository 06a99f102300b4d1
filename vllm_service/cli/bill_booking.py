"""Books a bill into the service's own ledger for `reconcile --book`, and reads the lines that are no request's."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection
from datetime import date

from vllm_service.accounting.bill_records import Bill
from vllm_service.accounting.day_billing import DayBilling
from vllm_service.accounting.reconciliation import Reconciliation
from vllm_service.domain.bill import day_number, numbered_day, parts_by_date
from vllm_service.errors import ConfigurationError
from vllm_service.storage.ledger.billed_days import BilledDayStore
from vllm_service.storage.ledger.costs import set_billed
from vllm_service.storage.ledger.lives import LifeStore
from vllm_service.storage.sql.database import Database


def require_bookable(bill: Bill) -> None:
    """Raises ConfigurationError for a bill that says neither when workers ran nor on which day it billed what."""
    if not bill.workers and not any(line.started_us is not None for line in bill.lines):
        raise ConfigurationError(
            "Nothing was booked: the bill has neither the times of workers nor days, so costs cannot be attributed to "
            "requests. Leave out --book."
        )


async def book(
    database: Database, bill: Bill, compared: Reconciliation, since: date | None, until: date | None
) -> None:
    """Books by the times of workers where the bill has them, else by its days, of which `since` to `until` count.

    Raises ConfigurationError unless one provider was billed.
    """
    if bill.workers:
        await set_billed(database, {int(row_id): parts for row_id, parts in compared.due().items()})
        return
    providers = sorted(compared.billed_providers)
    if len(providers) != 1:
        raise ConfigurationError(f"name the one provider that was billed with --provider: {providers}")
    days = {
        day: parts
        for day, parts in parts_by_date(bill.lines).items()
        if (since is None or day >= since) and (until is None or day <= until)
    }
    billing = DayBilling(providers[0], BilledDayStore(database), LifeStore(database))
    for applied in await billing.apply(days, time.time_ns() // 1000):
        if applied.day.applied_at_us is None:
            on = numbered_day(applied.day.day)
            sys.stderr.write(
                f"{on} is kept and not booked yet: the day is not over, seconds of it still wait to be booked, or what "
                "was billed for workers is unknown.\n"
            )


async def note_own_lines(database: Database, bill: Bill, compared: Reconciliation, providers: Collection[str]) -> None:
    """Adds to the comparison what the ledger has for the bill's days beside its rows."""
    numbers = [day_number(day) for day in parts_by_date(bill.lines)]
    if not numbers:
        return
    first, last = min(numbers), max(numbers)
    nobody: dict[int, int] = {}
    unexplained: dict[int, int] = {}
    for provider in providers:
        for booked in await LifeStore(database).days(provider, first, last):
            nobody[booked.day] = nobody.get(booked.day, 0) + booked.nobody_picousd
    for day in await BilledDayStore(database).days(first, last):
        if day.provider in providers and day.applied_at_us is not None:
            nobody[day.day] = day.nobody_picousd or 0
            unexplained[day.day] = day.unexplained_picousd or 0
    for number, picousd in nobody.items():
        compared.note(numbered_day(number), picousd, unexplained.get(number))
