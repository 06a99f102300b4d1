"""/v2/catalog: GPU types and data centers. Availability is shown only where `include` asks for it, as on RunPod."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

from aiohttp import web

from runpod_emulator.account.account import Account
from runpod_emulator.account.data_centers import CUDA_VERSIONS, DataCenter
from runpod_emulator.account.gpus import GpuType
from runpod_emulator.api.rest.door import RestDoor
from runpod_emulator.api.rest.exact_json import exact_response
from runpod_emulator.api.rest.queries import Query
from runpod_emulator.errors import BadRequest, NotFound

GROUP = "catalog"
AVAILABILITY_FILTERS = ("product", "count", "cloud", "countryCodes", "cudaVersions", "minCudaVersion")
DATA_CENTER_INCLUDES = ("GPU_AVAILABILITY", "CPU_AVAILABILITY")
DATA_CENTER_FILTERS = ("regions", "networkVolumeTypes", "compliance", "globalNetwork")
#: The most GPUs of one worker.
MOST_GPUS = 8

Document = dict[str, Any]


class CatalogApi:
    """Shows the GPU types and data centers that an account's endpoints can have."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def add_routes(self, router: web.UrlDispatcher, rest: RestDoor) -> None:
        """Adds everything under /v2/catalog."""
        base = f"/v2/{GROUP}"
        router.add_get(base + "/gpus", rest.guarded(GROUP, self.gpus))
        router.add_get(base + "/gpus/{id}", rest.guarded(GROUP, self.gpu))
        router.add_get(base + "/datacenters", rest.guarded(GROUP, self.data_centers))
        router.add_get(base + "/datacenters/{id}", rest.guarded(GROUP, self.data_center))
        rest.refuse_the_rest(router, GROUP)

    async def gpus(self, request: web.Request) -> web.StreamResponse:
        """Answers the GPU types; with countryCodes those that a data center there has."""
        query = _gpu_query(request)
        shown = [self._gpu_document(gpu_type, query) for gpu_type in self._account.gpu_types]
        if "countryCodes" in query:
            shown = [document for document in shown if "dataCenters" in document]
        return exact_response({"gpus": shown})

    async def gpu(self, request: web.Request) -> web.StreamResponse:
        """Answers one GPU type."""
        query = _gpu_query(request)
        wanted = request.match_info["id"]
        for gpu_type in self._account.gpu_types:
            if gpu_type.id == wanted:
                return exact_response(self._gpu_document(gpu_type, query))
        raise NotFound(f"GPU type {wanted}: there is no such type")

    async def data_centers(self, request: web.Request) -> web.StreamResponse:
        """Answers the data centers that match all filters."""
        query = Query(request, ("include", *DATA_CENTER_FILTERS))
        include = query.choices("include", DATA_CENTER_INCLUDES) or ()
        shown = [self._data_center_document(one, include) for one in self._account.data_centers if _matches(one, query)]
        return web.json_response({"dataCenters": shown})

    async def data_center(self, request: web.Request) -> web.StreamResponse:
        """Answers one data center."""
        include = Query(request, ("include",)).choices("include", DATA_CENTER_INCLUDES) or ()
        wanted = request.match_info["id"]
        for one in self._account.data_centers:
            if one.id == wanted:
                return web.json_response(self._data_center_document(one, include))
        raise NotFound(f"data center {wanted}: there is no such data center")

    def _gpu_document(self, gpu_type: GpuType, query: Query) -> Document:
        document = {
            "id": gpu_type.id,
            "name": gpu_type.name,
            "pool": gpu_type.pool,
            "manufacturer": "NVIDIA",
            "memory": gpu_type.memory_gb,
            "secure": True,
            "community": False,
            # The emulator has no pods: their prices are none. A serverless price is USD an hour.
            "price": {"secure": Decimal(0), "community": Decimal(0), "serverless": gpu_type.usd_per_second * 3600},
            "maxCount": {"secure": MOST_GPUS, "community": 0},
        }
        return document | self._availability(gpu_type, query) if "include" in query else document

    def _availability(self, gpu_type: GpuType, query: Query) -> Document:
        versions = [version for version in CUDA_VERSIONS if _runs(version, query)]
        countries = query.values("countryCodes", "[A-Z]{2}")
        level = self._account.stock.level(gpu_type)
        places = [
            _available(one.id, one.name, level)
            for one in self._account.data_centers
            if countries is None or one.country in countries
        ]
        is_few = (query.whole("count", 1000) or 1) <= MOST_GPUS
        is_there = is_few and (
            level != "NONE" and places and versions and query.choice("cloud", ("SECURE", "COMMUNITY")) != "COMMUNITY"
        )
        document: Document = {"availability": level if is_there else "NONE"}
        if is_there:
            document["dataCenters"] = places
        return document | {"cudaVersions": [{"version": one, "available": bool(is_there)} for one in versions]}

    def _data_center_document(self, one: DataCenter, include: Collection[str]) -> Document:
        document: Document = {
            "id": one.id,
            "name": one.name,
            "region": one.region,
            "networkVolumeTypes": list(one.volume_types),
            "compliance": list(one.compliance),
            "globalNetwork": one.global_network,
        }
        if "GPU_AVAILABILITY" in include:
            document["gpuAvailability"] = [
                _available(gpu_type.id, gpu_type.name, self._account.stock.level(gpu_type))
                for gpu_type in self._account.gpu_types
            ]
        return document


def _gpu_query(request: web.Request) -> Query:
    """Returns the query, with the rules between its parameters. Raises ApiError."""
    query = Query(request, ("include", *AVAILABILITY_FILTERS))
    query.choices("include", ("AVAILABILITY",))
    for name in AVAILABILITY_FILTERS:
        if name in query and "include" not in query:
            raise BadRequest(f"{name}: valid only with include=AVAILABILITY")
    if "include" in query and "product" not in query:
        raise BadRequest("product: required with include=AVAILABILITY; expected some of POD, CLUSTER, SERVERLESS")
    if "cudaVersions" in query and "minCudaVersion" in query:
        raise BadRequest("cudaVersions and minCudaVersion exclude one another")
    query.choices("product", ("POD", "CLUSTER", "SERVERLESS"))
    query.whole("count", 1000)
    query.choice("cloud", ("SECURE", "COMMUNITY"))
    query.values("countryCodes", "[A-Z]{2}")
    query.values("cudaVersions", r"\d{1,4}\.\d{1,4}")
    return query


def _runs(version: str, query: Query) -> bool:
    """Returns whether the query asks for this CUDA version."""
    exact = query.values("cudaVersions", r"\d{1,4}\.\d{1,4}")
    least = query.values("minCudaVersion", r"\d{1,4}(\.\d{1,4})?")
    if exact is not None:
        return version in exact
    return least is None or _parts(version) >= _parts(least[0])


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _matches(one: DataCenter, query: Query) -> bool:
    """Returns whether a data center matches all filters: any of the regions, all types and certificates."""
    regions = query.values("regions", "[A-Z_]{1,40}")
    types = query.choices("networkVolumeTypes", ("STANDARD", "HIGH_PERFORMANCE")) or ()
    certificates = query.values("compliance", "[A-Z0-9_]{1,40}") or ()
    global_network = query.choice("globalNetwork", ("true", "false"))
    return (
        (regions is None or one.region in regions)
        and set(types) <= set(one.volume_types)
        and set(certificates) <= set(one.compliance)
        and global_network in (None, str(one.global_network).lower())
    )


def _available(resource_id: str, name: str, level: str) -> Document:
    return {"id": resource_id, "name": name, "availability": level}
