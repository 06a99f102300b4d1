"""/v2/billing: what endpoints and network volumes cost, in buckets of time. It has no times of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from aiohttp import web

from runpod_emulator.account.account import Account
from runpod_emulator.account.spending import EndpointCosts, endpoint_costs, volume_cost
from runpod_emulator.api.rest.door import RestDoor
from runpod_emulator.api.rest.exact_json import exact_response
from runpod_emulator.api.rest.queries import Query
from runpod_emulator.billing.buckets import (
    MOST_BUCKETS,
    SIZES,
    BucketSize,
    Window,
    last_buckets,
    microseconds,
    moment,
    window,
)
from runpod_emulator.billing.metered import MeteredCost, by_bucket, total
from runpod_emulator.errors import BadRequest

GROUP = "billing"
#: Of one answer, so that a query costs little. RunPod names no limit.
MOST_RECORDS = 10_000
WINDOW_PARAMETERS = ("startTime", "endTime", "bucketSize", "lastN")

#: The costs of one endpoint or volume by the name of their amount.
Parts = Mapping[str, Sequence[MeteredCost]]


@dataclass(frozen=True)
class Kind:
    """One of the bills: the names in its documents."""

    id_name: str
    unique_name: str
    #: The amounts beside `totalAmount`.
    amounts: tuple[str, ...]


SERVERLESS = Kind("serverlessId", "uniqueServerlessCount", ("gpuAmount", "cpuAmount", "diskAmount", "feeAmount"))
VOLUMES = Kind("networkVolumeId", "uniqueNetworkVolumeCount", ("standardAmount", "highPerformanceAmount"))
VOLUME_AMOUNTS = {"STANDARD": "standardAmount", "HIGH_PERFORMANCE": "highPerformanceAmount"}


class BillingApi:
    """The bills of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher, rest: RestDoor) -> None:
        """Adds everything under /v2/billing."""
        router.add_get(f"/v2/{GROUP}/serverless", rest.guarded(GROUP, self.serverless))
        router.add_get(f"/v2/{GROUP}/network-volumes", rest.guarded(GROUP, self.network_volumes))
        rest.refuse_the_rest(router, GROUP)

    async def serverless(self, request: web.Request) -> web.StreamResponse:
        """Answers a record for each bucket and endpoint, deleted endpoints included."""
        query = Query(request, (*WINDOW_PARAMETERS, SERVERLESS.id_name))
        asked = _window(query, self._account.now_us())
        only = query.text(SERVERLESS.id_name)
        endpoints = [*self._account.deleted, *self._account.endpoints.values()]
        bills = {
            endpoint.id: _serverless(endpoint_costs(endpoint, self._account.rates))
            for endpoint in endpoints
            if only in (None, endpoint.id)
        }
        return exact_response(_bill(SERVERLESS, asked, only, bills))

    async def network_volumes(self, request: web.Request) -> web.StreamResponse:
        """Answers a record for each bucket and network volume, deleted volumes included."""
        query = Query(request, (*WINDOW_PARAMETERS, VOLUMES.id_name))
        now_us = self._account.now_us()
        asked = _window(query, now_us)
        only = query.text(VOLUMES.id_name)
        volumes = [*self._account.volumes.deleted, *self._account.volumes.existing]
        bills = {
            volume.id: {VOLUME_AMOUNTS[volume.type]: (volume_cost(volume, self._account.rates, now_us),)}
            for volume in volumes
            if only in (None, volume.id)
        }
        return exact_response(_bill(VOLUMES, asked, only, bills))


def _serverless(costs: EndpointCosts) -> Parts:
    return {"gpuAmount": costs.gpu, "cpuAmount": (), "diskAmount": costs.disk, "feeAmount": costs.fee}


def _window(query: Query, now_us: int) -> Window:
    """Returns the range that the query asks for. Raises ApiError."""
    size = cast(BucketSize, query.choice("bucketSize", SIZES) or "day")
    number = query.whole("lastN", MOST_BUCKETS)
    now = moment(now_us)
    if number is None:
        return window(now, size, query.time("startTime"), query.time("endTime"))
    if "startTime" in query or "endTime" in query:
        raise BadRequest("lastN: cannot be given with startTime or endTime; give one or the other")
    return last_buckets(now, size, number)


def _bill(kind: Kind, asked: Window, only: str | None, bills: Mapping[str, Parts]) -> dict[str, Any]:
    """Returns the document: a record for each bucket and resource. Raises BadRequest for too many."""
    buckets = list(asked.buckets())
    if len(buckets) * len(bills) > MOST_RECORDS:
        raise BadRequest(
            f"the answer would have more than {MOST_RECORDS} records, for {len(bills)} resources; ask for less time, a "
            f"larger bucketSize, or for one {kind.id_name}"
        )
    borders_us = [microseconds(asked.start), *(microseconds(end) for _, end in buckets)]
    columns = {
        name: {amount: by_bucket(parts.get(amount, ()), borders_us) for amount in kind.amounts}
        for name, parts in bills.items()
    }
    records = [
        _range(begin, end) | {kind.id_name: name} | _amounts({of: column[number] for of, column in parts.items()})
        for number, (begin, end) in enumerate(buckets)
        for name, parts in columns.items()
    ]
    totals = {of: total(amount for parts in columns.values() for amount in parts[of]) for of in kind.amounts}
    return {
        "records": records,
        "metadata": {
            "query": _range(asked.start, asked.end) | {"bucketSize": asked.size, kind.id_name: only},
            "recordCount": len(records),
            kind.unique_name: len(bills),
            "totals": _amounts(totals),
        },
    }


def _amounts(parts: Mapping[str, Decimal]) -> dict[str, Any]:
    return {"totalAmount": total(parts.values()), **parts}


def _range(begin: datetime, end: datetime) -> dict[str, Any]:
    return {"startTime": _text(begin), "endTime": _text(end)}


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
