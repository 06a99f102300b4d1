"""Bills as they come: from a file, standard input or a billing API; read leniently, summed exactly."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from http.client import BadStatusLine, HTTPConnection, HTTPSConnection, IncompleteRead, InvalidURL, LineTooLong
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from vllm_service.accounting.booking import WorkerBill
from vllm_service.accounting.reconciliation import BilledAmount
from vllm_service.domain.money import PICOUSD_PER_USD
from vllm_service.domain.timestamps import utc_seconds
from vllm_service.errors import ConfigurationError

MAX_BYTES = 64 * 1024 * 1024
NO_HTTP = (BadStatusLine, IncompleteRead, InvalidURL, LineTooLong)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def read_bill(source: str, key: str | None, timeout_seconds: float = 30.0) -> bytes:
    """source: a path, `-`, or an http(s) URL, which is asked with `Authorization: Bearer key`.

    Raises ConfigurationError, which never holds the key.
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
    if key is not None and is_plain and host not in LOOPBACK:
        raise ConfigurationError("the billing API is asked over http: the key would be readable on the way; use https")
    make = HTTPConnection if is_plain else HTTPSConnection
    try:
        connection = make(host, url.port, timeout=timeout_seconds)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except (OSError, ValueError, *NO_HTTP) as error:
        raise ConfigurationError(f"the billing API at {host} cannot be reached: {type(error).__name__}") from None
    connection.close()
    if answer.status != 200:
        raise ConfigurationError(f"the billing API at {host} answered {answer.status}")
    return body


_LISTS = ("records", "billing", "data", "items")
_AMOUNTS = ("amount", "totalAmount", "total_usd", "usd", "cost", "total")
_TIMES = ("time", "startTime", "bucketStart", "start")
_ENDPOINTS = ("endpointId", "serverlessId", "endpoint_id")


@dataclass(frozen=True)
class Bill:
    """Its lines; and the workers with their times, where the bill tells them."""

    lines: tuple[BilledAmount, ...]
    workers: tuple[WorkerBill, ...] = ()


def parse_bill(text: bytes, *, now_us: int, endpoint: str | None = None) -> Bill:
    """Raises ConfigurationError for what is no bill.

    endpoint: only this endpoint's lines, of those that name one. now_us: for workers that have not stopped.
    """
    try:
        document = json.loads(text, parse_float=Decimal)
    except ValueError:
        raise ConfigurationError("the bill is not JSON") from None
    if isinstance(document, dict) and isinstance(document.get("workers"), list):
        return _emulators([line for line in document["workers"] if isinstance(line, dict)], now_us)
    records = document if isinstance(document, list) else _records(document)
    lines = (_line(record) for record in records if isinstance(record, dict))
    return Bill(tuple(line for line in lines if endpoint is None or line.endpoint in (None, endpoint)))


def _records(document: Any) -> list[Any]:
    found = [document[name] for name in _LISTS if isinstance(document, dict) and isinstance(document.get(name), list)]
    if not found:
        raise ConfigurationError(f"the bill has no list of records: expected a list, or one under {', '.join(_LISTS)}")
    records: list[Any] = found[0]
    return records


def _line(record: Mapping[str, Any]) -> BilledAmount:
    amount = _first(record, _AMOUNTS)
    if amount is None:
        raise ConfigurationError(f"a line of the bill has no amount: expected one of {', '.join(_AMOUNTS)}")
    endpoint = _first(record, _ENDPOINTS)
    return BilledAmount(_picousd(amount), None if endpoint is None else str(endpoint), _moment(_first(record, _TIMES)))


def _emulators(workers: list[dict[str, Any]], now_us: int) -> Bill:
    """The emulator's `GET /billing` (docs/emulator.md): exact dollars as text, times in seconds since 1970."""
    lines: list[BilledAmount] = []
    bills: list[WorkerBill] = []
    for worker in workers:
        cost = _picousd(worker.get("total_usd"))
        started, ready, stopped = (_moment(worker.get(name)) for name in ("started_at", "ready_at", "stopped_at"))
        if started is None:
            lines.append(BilledAmount(cost))
            continue
        ended = max(started, now_us if stopped is None else stopped)
        lines.append(BilledAmount(cost, None, started, ended))
        bills.append(WorkerBill(str(worker.get("worker_id")), "", started, ended, cost, ready))
    return Bill(tuple(lines), tuple(bills) if len(bills) == len(workers) else ())


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _picousd(usd: Any) -> int:
    """RunPod's amounts have more digits than a pico-dollar: the nearest."""
    try:
        amount = Decimal(str(usd)) * PICOUSD_PER_USD
        return int(amount.to_integral_value(ROUND_HALF_EVEN))
    except (InvalidOperation, ValueError, OverflowError):
        raise ConfigurationError(f"a line of the bill has no amount of dollars: {str(usd)[:40]!r}") from None


def _moment(value: Any) -> int | None:
    """Microseconds since 1970, of seconds or RFC 3339; a time without a zone is UTC."""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return round(value * 1_000_000)
    if not isinstance(value, str):
        return None
    try:
        return round(utc_seconds(value) * 1_000_000)
    except ValueError:
        raise ConfigurationError(f"a line of the bill has no time that can be read: {value[:40]!r}") from None
