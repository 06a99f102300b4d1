"""RunPod's bill over REST v2: an endpoint's days and its network volumes' days, fetched a month at a time.

`GET /v2/billing/serverless` and `/v2/billing/network-volumes` answer with whole lists of records, one for each day and
endpoint or volume (RunPod's published schema of 2026-08). A day without a record is a day without a bill, not a day at
no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from vllm_service.accounting.bill_records import Bill, bill_of
from vllm_service.domain.bill import BilledAmount, utc_day
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.rest_api import Json, RestApi

SERVERLESS_PATH = "/v2/billing/serverless"
VOLUMES_PATH = "/v2/billing/network-volumes"
#: The days that one request asks for.
DAYS_AT_ONCE = 31
#: The records of one request: a month of three hundred endpoints or volumes.
MOST_RECORDS = 10_000


@dataclass(frozen=True, slots=True)
class BillQuery:
    """The lines of a bill that are asked for."""

    #: UTC, both included.
    first: date
    last: date
    #: None: every endpoint of the account.
    endpoint: str | None = None
    #: The ids of network volumes. Empty: none.
    volumes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for days in the wrong order."""
        if self.last < self.first:
            raise ValueError(f"the last day, {self.last}, is before the first, {self.first}")


async def fetch_bill(api: RestApi, query: BillQuery) -> Bill:
    """Returns the bill's lines. Raises RestError, UpstreamFailed for endless lists, ConfigurationError for no bill."""
    lines: list[BilledAmount] = []
    for first, last in _months(query.first, query.last):
        asked: dict[str, str | int] = {
            "startTime": f"{first}T00:00:00Z",
            "endTime": f"{last + timedelta(days=1)}T00:00:00Z",
            "bucketSize": "day",
        }
        one: dict[str, str | int] = {} if query.endpoint is None else {"serverlessId": query.endpoint}
        bill = (await _records(api, SERVERLESS_PATH, asked | one)).only(query.endpoint)
        lines += _within(bill.lines, first, last)
        for volume in query.volumes:
            bill = (await _records(api, VOLUMES_PATH, asked | {"networkVolumeId": volume})).only(volumes=(volume,))
            lines += _within(bill.lines, first, last)
    return Bill(tuple(lines))


async def _records(api: RestApi, path: str, asked: dict[str, str | int]) -> Bill:
    records: list[Json] = []
    async for record in api.pages(path, "records", asked):
        if len(records) == MOST_RECORDS:
            raise UpstreamFailed(
                f"{path}: the bill has more than {MOST_RECORDS:,} records for {DAYS_AT_ONCE} days; name the endpoint, "
                "and check that the address is RunPod's"
            )
        records.append(record)
    return bill_of(records, now_us=0)


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    """Yields the days in spans that one request asks for, both ends included."""
    while first <= last:
        end = min(last, first + timedelta(days=DAYS_AT_ONCE - 1))
        yield first, end
        first = end + timedelta(days=1)


def _within(lines: Iterable[BilledAmount], first: date, last: date) -> list[BilledAmount]:
    """Returns the lines of these days. An answer may hold others: its window is widened to whole buckets."""
    return [line for line in lines if line.started_us is not None and first <= utc_day(line.started_us) <= last]
