"""Templates, network volumes, registries and the catalogue over REST: what they do beyond their schemas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator
from runpod_emulator.account.gpus import GPU_TYPES

VOLUME = {"name": "models", "size": 100, "dataCenter": "EU-RO-1"}
ENDPOINT = {
    "name": "chat",
    "type": "QUEUE",
    "image": "example/worker:1",
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "gpu": {"pools": ["AMPERE_24"]},
}
TEMPLATE = {
    "name": "vllm",
    "image": "example/worker:1",
    "serverless": True,
    "env": {"A": "1", "B": "2"},
    "allowedCudaVersions": ["12.8"],
}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Emulator(rest_quotas={}) as emulator,
        httpx.AsyncClient(base_url=f"{emulator.origin}/v2", trust_env=False, verify=False) as client,
    ):
        yield client


async def made(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_a_volume_that_an_endpoint_has_is_not_deleted(client: httpx.AsyncClient) -> None:
    volume = (await made(client, "/network-volumes", VOLUME))["id"]
    endpoint = (await made(client, "/serverless", ENDPOINT | {"networkVolumes": [volume]}))["id"]
    refused = await client.delete(f"/network-volumes/{volume}")
    assert (refused.status_code, endpoint in refused.json()["detail"]) == (409, True)
    assert (await client.get(f"/network-volumes/{volume}")).status_code == 200
    assert (await client.delete(f"/serverless/{endpoint}")).status_code == 204
    assert (await client.delete(f"/network-volumes/{volume}")).status_code == 204
    assert (await client.get(f"/network-volumes/{volume}")).status_code == 404
    assert (await client.get("/network-volumes")).json() == {"networkVolumes": []}


async def test_a_volume_has_the_default_tier_of_its_data_center_and_only_grows(client: httpx.AsyncClient) -> None:
    volume = await made(client, "/network-volumes", VOLUME)
    assert volume == VOLUME | {"id": volume["id"], "type": "STANDARD"}
    grown = await client.patch(f"/network-volumes/{volume['id']}", json={"size": 200, "name": "weights"})
    assert grown.json() == volume | {"size": 200, "name": "weights"}
    refused = await client.patch(f"/network-volumes/{volume['id']}", json={"size": 199, "name": "small"})
    assert (refused.status_code, "200 GB" in refused.json()["detail"]) == (400, True)
    assert (await client.get(f"/network-volumes/{volume['id']}")).json() == grown.json()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"networkVolumes": ["none"]}, "networkVolumes"),
        ({"networkVolumes": ["{volume}", "{volume}"]}, "networkVolumes"),
        ({"networkVolumes": ["{volume}"], "dataCenterIds": ["US-KS-2"]}, "EU-RO-1"),
        ({"dataCenterIds": ["MOON-1"]}, "MOON-1"),
    ],
)
async def test_an_endpoint_needs_volumes_and_data_centers_that_exist_and_fit(
    client: httpx.AsyncClient, change: dict[str, list[str]], named: str
) -> None:
    volume = (await made(client, "/network-volumes", VOLUME))["id"]
    body = ENDPOINT | {name: [value.replace("{volume}", volume) for value in values] for name, values in change.items()}
    refused = await client.post("/serverless", json=body)
    assert refused.status_code == 400
    assert named in refused.json()["detail"]


async def test_a_worker_runs_where_its_volume_is(client: httpx.AsyncClient) -> None:
    volume = (await made(client, "/network-volumes", VOLUME))["id"]
    endpoint = (await made(client, "/serverless", ENDPOINT | {"networkVolumes": [volume]}))["id"]
    # An external worker's first request adds it.
    await client.get(f"/{endpoint}/ping/w1")
    workers = (await client.get(f"/serverless/{endpoint}/workers")).json()["workers"]
    assert [(worker["id"], worker["dataCenterId"]) for worker in workers] == [("w1", "EU-RO-1")]


async def test_a_template_is_copied_into_an_endpoint_and_later_changes_do_not_reach_it(
    client: httpx.AsyncClient,
) -> None:
    template = await made(client, "/templates", TEMPLATE)
    body = {name: value for name, value in ENDPOINT.items() if name != "image"}
    endpoint = await made(client, "/serverless", body | {"templateId": template["id"], "env": {"B": "3"}})
    assert (endpoint["image"], endpoint["env"]) == ("example/worker:1", {"A": "1", "B": "3"})
    assert endpoint["gpu"]["allowedCudaVersions"] == ["12.8"]
    changed = (await client.patch(f"/templates/{template['id']}", json={"image": "example/worker:2"})).json()
    assert changed == template | {"image": "example/worker:2"}
    assert (await client.get(f"/serverless/{endpoint['id']}")).json()["image"] == "example/worker:1"
    refused = await client.delete(f"/templates/{template['id']}")
    assert (refused.status_code, endpoint["id"] in refused.json()["detail"]) == (400, True)
    await client.delete(f"/serverless/{endpoint['id']}")
    assert (await client.delete(f"/templates/{template['id']}")).status_code == 204


async def test_a_template_for_pods_makes_no_endpoint(client: httpx.AsyncClient) -> None:
    template = await made(client, "/templates", {"name": "pod", "image": "x"})
    assert (template["serverless"], template["category"], template["startSsh"]) == (False, "NVIDIA", True)
    refused = await client.post("/serverless", json=ENDPOINT | {"templateId": template["id"]})
    assert refused.status_code == 422


async def test_credentials_are_never_shown_and_templates_lose_deleted_ones(client: httpx.AsyncClient) -> None:
    body = {"name": "private", "username": "someone", "password": "hidden-word"}
    created = await client.post("/registries", json=body)
    registry = created.json()["id"]
    template = await made(client, "/templates", TEMPLATE | {"registry": registry})
    texts = [created.text, (await client.get("/registries")).text, (await client.get(f"/registries/{registry}")).text]
    wrong = await client.post("/registries", json=body | {"extra": 1})
    assert wrong.status_code == 422
    assert not any("hidden-word" in text or "someone" in text for text in [*texts, wrong.text])
    assert (await client.delete(f"/registries/{registry}")).status_code == 204
    assert (await client.get(f"/templates/{template['id']}")).json()["registry"] is None


@pytest.mark.parametrize(("path", "name"), [("/templates", "templates"), ("/network-volumes", "networkVolumes")])
async def test_a_list_comes_in_pages_each_item_once(client: httpx.AsyncClient, path: str, name: str) -> None:
    bodies = [(TEMPLATE if name == "templates" else VOLUME) | {"name": f"n{number}"} for number in range(45)]
    for body in bodies:
        await made(client, path, body)
    names: list[str] = []
    query: dict[str, str] | None = {}
    while query is not None:
        document = (await client.get(path, params=query)).json()
        names += [item["name"] for item in document[name]]
        cursor = document.get("nextCursor")
        query = None if cursor is None else {"cursor": cursor}
    assert names == [body["name"] for body in bodies]


async def test_the_catalogue_has_every_type_with_its_price_an_hour(client: httpx.AsyncClient) -> None:
    gpus = (await client.get("/catalog/gpus")).json()["gpus"]
    assert [gpu["id"] for gpu in gpus] == [gpu_type.id for gpu_type in GPU_TYPES]
    prices = {gpu["pool"]: gpu["price"]["serverless"] for gpu in gpus}
    assert (prices["AMPERE_24"], prices["HOPPER_141"]) == (0.684, 5.58)
    assert all("availability" not in gpu for gpu in gpus)
    assert prices == {gpu_type.pool: float(gpu_type.usd_per_second * Decimal(3600)) for gpu_type in GPU_TYPES}


AVAILABILITY = {"include": "AVAILABILITY", "product": "SERVERLESS"}


@pytest.mark.parametrize(
    ("query", "level", "places", "versions"),
    [
        ({}, "HIGH", 9, 5),
        ({"countryCodes": "RO,CZ"}, "HIGH", 2, 5),
        ({"countryCodes": "AQ"}, "NONE", 0, 5),
        ({"minCudaVersion": "12.8"}, "HIGH", 9, 3),
        ({"minCudaVersion": "13"}, "HIGH", 9, 1),
        ({"cudaVersions": "12.4,11.8"}, "HIGH", 9, 1),
        ({"cudaVersions": "11.8"}, "NONE", 0, 0),
        ({"cloud": "COMMUNITY"}, "NONE", 0, 5),
        ({"count": "9"}, "NONE", 0, 5),
    ],
)
async def test_filters_narrow_the_availability_of_a_type(
    client: httpx.AsyncClient, query: dict[str, str], level: str, places: int, versions: int
) -> None:
    gpu = (await client.get("/catalog/gpus/NVIDIA L4", params=AVAILABILITY | query)).json()
    assert (gpu["availability"], len(gpu.get("dataCenters", [])), len(gpu["cudaVersions"])) == (level, places, versions)
    listed = (await client.get("/catalog/gpus", params=AVAILABILITY | query)).json()["gpus"]
    assert len(listed) == (0 if query.get("countryCodes") == "AQ" else len(GPU_TYPES))


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"regions": "EUROPE", "networkVolumeTypes": "HIGH_PERFORMANCE"}, ["EU-RO-1"]),
        ({"networkVolumeTypes": "STANDARD,HIGH_PERFORMANCE"}, ["US-KS-2", "EU-RO-1"]),
        ({"compliance": "GDPR,RENEWABLE"}, ["EUR-IS-1", "EUR-NO-1"]),
        ({"globalNetwork": "true"}, ["US-CA-2", "EU-RO-1"]),
        ({"regions": "ANTARCTICA"}, []),
    ],
)
async def test_filters_narrow_the_data_centers(
    client: httpx.AsyncClient, query: dict[str, str], ids: list[str]
) -> None:
    found = (await client.get("/catalog/datacenters", params=query)).json()["dataCenters"]
    assert [one["id"] for one in found] == ids
