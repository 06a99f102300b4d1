"""Reads the records of bills in the shapes that RunPod and the emulator give them: leniently, and to the last unit."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, DecimalException
from typing import Any

from vllm_service.accounting.booking import WorkerBill
from vllm_service.domain.bill import DAY_US, BilledAmount, BillPart, Parts
from vllm_service.domain.money import PICOUSD_PER_USD, exact_number
from vllm_service.domain.timestamps import utc_seconds
from vllm_service.errors import ConfigurationError

#: A larger amount, or a later time, is a mistake in the bill. Sums and dates of them could not even be printed.
MAX_USD = 10**15
MAX_SECONDS = 253_402_300_799

# Names under which billing APIs give each field; the first one that is present counts.
_LISTS = ("records", "billing", "data", "items")
_AMOUNTS = ("amount", "totalAmount", "total_usd", "usd", "cost", "total")
_TIMES = ("time", "startTime", "bucketStart", "start")
_ENDPOINTS = ("endpointId", "serverlessId", "endpoint_id")
_VOLUMES = ("networkVolumeId", "network_volume_id")
# The amounts of REST v2 by part. A record with one of the names should have all of its row.
_SERVERLESS = {
    "gpuAmount": BillPart.GPU,
    "cpuAmount": BillPart.CPU,
    "diskAmount": BillPart.DISK,
    "feeAmount": BillPart.FEE,
}
_STORAGE = ("standardAmount", "highPerformanceAmount")


@dataclass(frozen=True)
class Bill:
    """A bill as read."""

    lines: tuple[BilledAmount, ...]
    #: The workers with their times; empty where the bill lacks those of any worker.
    workers: tuple[WorkerBill, ...] = ()

    def only(self, endpoint: str | None = None, volumes: Collection[str] = ()) -> Bill:
        """Returns the bill without lines that name another endpoint, or a volume that is none of these.

        None, or no volumes: all count. A line that names neither always counts.
        """
        kept = (
            line
            for line in self.lines
            if (endpoint is None or line.endpoint in (None, endpoint))
            and (not volumes or line.volume is None or line.volume in volumes)
        )
        return Bill(tuple(kept), self.workers)


def joined(bills: Iterable[Bill]) -> Bill:
    """Returns the bills as one. Raises ConfigurationError for an endpoint's or a volume's time that two of them bill.

    Workers' times are kept where each bill of an endpoint has them: a part of them would look like the whole.
    """
    every = list(bills)
    seen: set[tuple[str | None, str | None, int]] = set()
    for bill in every:
        billed = {
            (line.endpoint, line.volume, line.started_us)
            for line in bill.lines
            if line.started_us is not None and (line.endpoint or line.volume)
        }
        if twice := seen & billed:
            name = next(endpoint or volume for endpoint, volume, _ in twice)
            raise ConfigurationError(f"two of the bills hold the same day of {name}: give each bill once")
        seen |= billed
    lines = tuple(line for bill in every for line in bill.lines)
    workers = tuple(worker for bill in every for worker in bill.workers)
    of_workers = sum(line.volume is None for line in lines)
    return Bill(lines, workers if len(workers) == of_workers else ())


def parse_bill(text: bytes, *, now_us: int) -> Bill:
    """Returns the bill of JSON; see bill_of. Raises ConfigurationError for what is no bill."""
    try:
        document = json.loads(text, parse_float=exact_number)  # a float would round the dollars
    except (ValueError, RecursionError):
        raise ConfigurationError(
            "the bill is not JSON: give a billing API's answer, or the emulator's GET /billing"
        ) from None
    return bill_of(document, now_us=now_us)


def bill_of(document: Any, *, now_us: int) -> Bill:
    """Returns the bill of a decoded document, whose fractions are Decimals. Raises ConfigurationError for no bill.

    now_us: the end of workers that still run.
    """
    if isinstance(document, dict) and isinstance(document.get("workers"), list):
        return _emulators(_numbered(document["workers"], "worker"), now_us)
    records = document if isinstance(document, list) else _records(document)
    return Bill(tuple(_line(record, where) for where, record in _numbered(records, "line")))


def _records(document: Any) -> list[Any]:
    found = [document[name] for name in _LISTS if isinstance(document, dict) and isinstance(document.get(name), list)]
    if not found:
        raise ConfigurationError(f"the bill has no list of records: expected a list, or one under {', '.join(_LISTS)}")
    records: list[Any] = found[0]
    return records


def _numbered(records: list[Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns the records that are objects, each with its position for errors, such as `line 3 of the bill`."""
    named = ((f"{kind} {number} of the bill", record) for number, record in enumerate(records, 1))
    return [(where, record) for where, record in named if isinstance(record, dict)]


def _line(record: Mapping[str, Any], where: str) -> BilledAmount:
    amount = _first(record, _AMOUNTS)
    if amount is None:
        raise ConfigurationError(f"{where} has no amount: expected one of {', '.join(_AMOUNTS)}")
    line = BilledAmount(
        _picousd(amount, where),
        _text(_first(record, _ENDPOINTS)),
        _timestamp_us(_first(record, _TIMES), where),
        _timestamp_us(record.get("endTime"), where),
        _parts(record, where),
        _text(_first(record, _VOLUMES)),
    )
    return _within_a_day(line, where)


def _parts(record: Mapping[str, Any], where: str) -> Parts:
    if any(name in record for name in _SERVERLESS):
        return {part: _part(record, name, where) for name, part in _SERVERLESS.items()}
    if any(name in record for name in _STORAGE):
        amounts = [_part(record, name, where) for name in _STORAGE]
        known = [amount for amount in amounts if amount is not None]
        return {BillPart.VOLUME: sum(known) if len(known) == len(amounts) else None}
    return {}


def _part(record: Mapping[str, Any], name: str, where: str) -> int | None:
    amount = record.get(name)
    return None if amount is None else _picousd(amount, f"{where}: {name}")


def _within_a_day(line: BilledAmount, where: str) -> BilledAmount:
    """Returns the line. Raises ConfigurationError where its time is more than one UTC day."""
    if line.started_us is not None and (line.ended_us or 0) > (line.started_us // DAY_US + 1) * DAY_US:
        raise ConfigurationError(f"{where} covers more than one day, UTC: ask the billing API for bucketSize=day")
    return line


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _emulators(workers: list[tuple[str, dict[str, Any]]], now_us: int) -> Bill:
    """Reads the emulator's `GET /billing` (docs/emulator.md): exact dollars as text, times in seconds since 1970."""
    lines: list[BilledAmount] = []
    bills: list[WorkerBill] = []
    for where, worker in workers:
        cost = _picousd(worker.get("total_usd"), where)
        times = ("started_at", "ready_at", "stopped_at")
        started, ready, stopped = (_timestamp_us(worker.get(name), where) for name in times)
        if started is None:
            lines.append(BilledAmount(cost))
            continue
        ended = max(started, now_us if stopped is None else stopped)
        lines.append(BilledAmount(cost, None, started, ended))
        bills.append(WorkerBill(str(worker.get("worker_id")), "", started, ended, cost, ready))
    # Booking the workers of a part of the bill would look like the whole: it is all of them, or none.
    return Bill(tuple(lines), tuple(bills) if len(bills) == len(workers) else ())


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _picousd(usd: Any, where: str) -> int:
    """Returns the nearest whole pico-dollars: RunPod's amounts have more digits than that."""
    try:
        amount = Decimal(str(usd))
        is_countable = -MAX_USD <= amount <= MAX_USD
    except DecimalException:  # also a NaN: Decimal's comparisons raise where a float's are false
        is_countable = False
    if not is_countable:
        raise ConfigurationError(f"{where} has an amount that is not dollars, at most {MAX_USD:,}: {str(usd)[:40]!r}")
    return int((amount * PICOUSD_PER_USD).to_integral_value(ROUND_HALF_EVEN))


def _timestamp_us(value: Any, where: str) -> int | None:
    """Returns microseconds since 1970, from seconds or RFC 3339 (UTC where it names no zone); None for neither."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not -MAX_SECONDS <= value <= MAX_SECONDS:  # json makes a float of NaN: no comparison with it is true
            raise ConfigurationError(
                f"{where} has a time that is not seconds since 1970 up to the year 9999: {str(value)[:40]!r}"
            )
        return round(value * 1_000_000)
    if not isinstance(value, str):
        return None
    try:
        return round(utc_seconds(value) * 1_000_000)
    except ValueError:
        raise ConfigurationError(f"{where} has a time that is not RFC 3339: {value[:40]!r}") from None
