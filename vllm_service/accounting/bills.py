"""Reads bills from a file, standard input or a billing API: leniently, and summed exactly."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, DecimalException
from http.client import BadStatusLine, HTTPConnection, HTTPSConnection, IncompleteRead, InvalidURL, LineTooLong
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vllm_service.accounting.booking import WorkerBill
from vllm_service.accounting.reconciliation import BilledAmount
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.timestamps import utc_seconds
from vllm_service.domain.urls import is_plain_beyond_this_machine
from vllm_service.errors import ConfigurationError

#: More of a bill is not read, so that a wrong URL cannot fill the memory.
MAX_BYTES = 64 * 1024 * 1024
#: A larger amount, or a later time, is a mistake in the bill. Sums and dates of them could not even be printed.
MAX_USD = 10**15
MAX_SECONDS = 253_402_300_799
#: What http.client raises for an answer that is no HTTP.
NOT_HTTP = (BadStatusLine, IncompleteRead, InvalidURL, LineTooLong)


def read_bill(source: str, key: str | None, timeout_seconds: float = 30.0) -> bytes:
    """Returns the bill's bytes. source: a path, `-`, or an http(s) URL, to which `Authorization: Bearer key` is sent.

    Raises ConfigurationError, whose text never holds the key.
    """
    if source == "-":
        return sys.stdin.buffer.read(MAX_BYTES)
    if source.startswith(("http://", "https://")):
        return _get(urlsplit(source), key, timeout_seconds)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the bill cannot be read: {error.strerror}: {source}") from None


def _get(url: SplitResult, key: str | None, timeout_seconds: float) -> bytes:
    host = url.hostname or ""
    is_plain = url.scheme == "http"
    if key is not None and is_plain_beyond_this_machine(url.geturl()):
        raise ConfigurationError("the billing API's URL is http: the key would be readable on the way; use https")
    make = HTTPConnection if is_plain else HTTPSConnection
    try:
        connection = make(host, url.port, timeout=timeout_seconds)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except (OSError, ValueError, *NOT_HTTP) as error:
        raise ConfigurationError(f"the billing API at {host} cannot be reached: {type(error).__name__}") from None
    connection.close()
    if answer.status != 200:
        raise ConfigurationError(f"the billing API at {host} answered {answer.status}")
    return body


# Names under which billing APIs give each field; the first one that is present counts.
_LISTS = ("records", "billing", "data", "items")
_AMOUNTS = ("amount", "totalAmount", "total_usd", "usd", "cost", "total")
_TIMES = ("time", "startTime", "bucketStart", "start")
_ENDPOINTS = ("endpointId", "serverlessId", "endpoint_id")


@dataclass(frozen=True)
class Bill:
    """A bill as read."""

    lines: tuple[BilledAmount, ...]
    #: The workers with their times; empty where the bill lacks those of any worker.
    workers: tuple[WorkerBill, ...] = ()


def parse_bill(text: bytes, *, now_us: int, endpoint: str | None = None) -> Bill:
    """Returns the bill. Raises ConfigurationError for what is no bill.

    endpoint: of the lines that name an endpoint, only this one's count. now_us: the end of workers that still run.
    """
    try:
        document = json.loads(text, parse_float=Decimal)  # a float would round the dollars
    except ValueError:
        raise ConfigurationError(
            "the bill is not JSON: give a billing API's answer, or the emulator's GET /billing"
        ) from None
    if isinstance(document, dict) and isinstance(document.get("workers"), list):
        return _emulators(_numbered(document["workers"], "worker"), now_us)
    records = document if isinstance(document, list) else _records(document)
    lines = [_line(record, where) for where, record in _numbered(records, "line")]
    return Bill(tuple(line for line in lines if endpoint is None or line.endpoint in (None, endpoint)))


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
    endpoint = _first(record, _ENDPOINTS)
    return BilledAmount(
        _picousd(amount, where),
        None if endpoint is None else str(endpoint),
        _timestamp_us(_first(record, _TIMES), where),
    )


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
