"""Endpoints over REST v2: made, changed, listed and deleted, each answer held against the published schema."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults
from runpod_emulator.account.configuration import ContainerConfig
from runpod_emulator.account.template import Template
from tests.runpod_emulator.rest_calls import WANTED, rest_of
from tests.runpod_emulator.support import HandClock

KEY = {"Authorization": "Bearer key"}
ENDPOINTS = "/v2/serverless"
DELAY = {"type": "QUEUE_DELAY", "queueDelay": 0.5}


async def test_a_new_endpoint_has_the_published_defaults_and_is_there_until_it_is_deleted() -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        made = await rest.created()
        assert (made["workers"], made["timeout"], made["flashboot"]) == (
            {"min": 0, "max": 3, "idleTimeout": 10},
            300_000,
            "OFF",
        )
        assert (made["disk"], made["args"], made["registry"], made["networkVolumes"]) == (20, "", None, [])
        assert made["requestUrls"]["runSync"] == f"{emulator.origin}/v2/{made['id']}/runsync"
        assert (await rest("GET", f"{ENDPOINTS}/{made['id']}")).json() == made
        assert [one["id"] for one in (await rest("GET", ENDPOINTS)).json()["endpoints"]] == ["local", made["id"]]
        assert (await rest("DELETE", f"{ENDPOINTS}/{made['id']}")).status_code == 204
        assert (await rest("GET", f"{ENDPOINTS}/{made['id']}")).status_code == 404
        assert (await rest("DELETE", f"{ENDPOINTS}/{made['id']}")).status_code == 404
        assert list(emulator.account.endpoints) == ["local"]


@pytest.mark.parametrize(
    ("usd_per_second", "pool"), [("0.00031", "ADA_24"), ("0.00240", "BLACKWELL_180"), ("0.123", "AMPERE_16")]
)
async def test_the_first_endpoint_has_the_gpus_that_its_price_is_of(usd_per_second: str, pool: str) -> None:
    async with (
        Emulator(EndpointSettings(usd_per_second=Decimal(usd_per_second))) as emulator,
        rest_of(emulator) as rest,
    ):
        assert (await rest("GET", f"{ENDPOINTS}/local")).json()["gpu"]["pools"] == [pool]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"workers": {"min": 2}}, {"workers": {"min": 2, "max": 3, "idleTimeout": 10}}),
        ({"workers": {"max": 9, "idleTimeout": 60}}, {"workers": {"min": 0, "max": 9, "idleTimeout": 60}}),
        (
            {"scaling": {"type": "REQUEST_COUNT", "requestCount": 7}},
            {"scaling": {"type": "REQUEST_COUNT", "requestCount": 7}, "workers": {"min": 0, "max": 3}},
        ),
        (
            {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5}},
            {"scaling": {"type": "QUEUE_DELAY", "queueDelay": 0.5}},
        ),
        ({"timeout": 60_000}, {"timeout": 60_000}),
        ({"name": "other"}, {"name": "other"}),
        ({"env": {"A": "1"}}, {"env": {"A": "1"}}),
        ({"image": "other:2", "registry": None}, {"image": "other:2", "registry": None}),
        ({"networkVolumes": []}, {"networkVolumes": []}),
        ({"flashboot": "FLASHBOOT"}, {"flashboot": "FLASHBOOT"}),
        ({}, {}),
    ],
)
async def test_a_patch_changes_what_it_gives_and_answers_the_whole_endpoint(
    change: dict[str, Any], shown: dict[str, Any]
) -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        made = await rest.created()
        changed = (await rest("PATCH", f"{ENDPOINTS}/{made['id']}", change)).json()
        assert changed == made | shown
        assert (await rest("GET", f"{ENDPOINTS}/{made['id']}")).json() == changed


GPU = {"pools": ["ADA_48_PRO", "AMPERE_24"], "excludedTypes": ["NVIDIA L40"], "count": 2, "minCudaVersion": "12.8"}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"count": 1}, GPU | {"count": 1}),
        ({"pools": ["AMPERE_24"]}, GPU | {"pools": ["AMPERE_24"], "excludedTypes": []}),
        ({"minCudaVersion": ""}, GPU | {"minCudaVersion": None}),
    ],
)
async def test_gpu_fields_change_one_by_one_and_pools_take_their_exclusions_away(
    change: dict[str, Any], shown: dict[str, Any]
) -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        made = await rest.created(gpu=GPU)
        assert made["gpu"] == GPU | {"allowedCudaVersions": []}
        changed = await rest("PATCH", f"{ENDPOINTS}/{made['id']}", {"gpu": change})
        assert changed.json()["gpu"] == shown | {"allowedCudaVersions": []}


REFUSED_PATCHES = [
    ("{", 400, "not JSON"),
    ("[]", 422, "$:"),
    ('{"workers": {"min": 4}}', 400, "min 4, max 3"),
    ('{"workers": {"min": -1}}', 422, "$.workers.min"),
    ('{"workers": {"min": "1"}}', 422, "$.workers.min"),
    ('{"workers": {"min": true}}', 422, "$.workers.min"),
    ('{"workers": {"min": 1.5}}', 422, "$.workers.min"),
    ('{"workers": {"min": null}}', 422, "$.workers: min: null"),
    ('{"workers": {"max": 1e400}}', 422, "$.workers.max"),
    ('{"workers": {"max": 99999999999999999999}}', 422, "$.workers.max"),
    ('{"workers": {"max": 31}}', 400, "quota of 30"),
    ('{"workersMin": 1}', 422, "$.workersMin: additional properties"),
    ('{"workers": {"mins": 1}}', 422, "$.workers.mins: additional properties"),
    ('{"type": "QUEUE"}', 422, "$.type: additional properties"),
    ('{"scaling": {"type": "QUEUE_DELAY", "queueDelay": NaN}}', 422, "$.scaling"),
    ('{"scaling": {"type": "NO", "queueDelay": 1}}', 422, "$.scaling"),
    ('{"scaling": {"type": "REQUEST_COUNT", "requestCount": 1}, "workers": {"idleTimeout": 5}}', 400, "idleTimeout"),
    ('{"gpu": {"excludedTypes": ["NVIDIA L4"]}}', 422, "$.gpu.excludedTypes"),
    ('{"gpu": {"pools": ["NO"]}}', 400, "there is no pool NO"),
    ('{"gpu": {"pools": ["ADA_24"], "excludedTypes": ["NVIDIA L4"]}}', 400, "is no GPU type of these pools"),
    ('{"gpu": {"pools": ["ADA_24"], "excludedTypes": ["NVIDIA GeForce RTX 4090"]}}', 400, "no GPU type is left"),
    ('{"gpu": {"minCudaVersion": "12.1", "allowedCudaVersions": ["12.1"]}}', 400, "exclude one another"),
    ('{"cpu": [{"id": "cpu5c", "vcpuCount": 4}]}', 400, "cpu"),
    ('{"timeout": 1}', 400, "timeout: expected 5000"),
    ('{"env": {"A": 1}}', 422, "$.env.A"),
    ('{"env": {"A=B": "1"}}', 422, "$.env"),
    ('{"env": {"A": "\\u0000"}}', 422, "$.env.A"),
    ('{"templateId": "none"}', 404, "template none"),
    ('{"name": ""}', 422, "$.name"),
    ("[" * 100_000, 400, "not JSON"),
    ('{"name": "' + "x" * 1_100_000 + '"}', 413, "larger than"),
]


@pytest.mark.parametrize(("body", "status", "said"), REFUSED_PATCHES, ids=[body[:60] for body, _, _ in REFUSED_PATCHES])
async def test_a_patch_that_cannot_be_names_the_field_and_changes_nothing(body: str, status: int, said: str) -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        made = await rest.created()
        refused = await rest("PATCH", f"{ENDPOINTS}/{made['id']}", body)
        document = refused.json()
        assert refused.status_code == status
        assert said in " ".join([document["detail"], *document.get("errors", [])])
        assert len(refused.content) < 20_000
        assert (await rest("GET", f"{ENDPOINTS}/{made['id']}")).json() == made
        assert emulator.account.endpoints[made["id"]].state.minima == []


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"gpu": None}, 400, "exactly one of gpu and cpu"),
        ({"cpu": [{"id": "cpu5c", "vcpuCount": 4}]}, 400, "exactly one of gpu and cpu"),
        ({"gpu": None, "cpu": [{"id": "cpu5c", "vcpuCount": 4}]}, 501, "not emulated"),
        ({"type": "LOAD_BALANCER"}, 400, "has no queue"),
        ({"image": None}, 422, "$.image"),
        ({"name": None}, 422, "$.name"),
        ({"scaling": None}, 422, "$.scaling"),
        ({"type": None}, 422, "$.type"),
        ({"workers": {"max": 28}}, 400, "quota of 30"),
    ],
)
async def test_an_endpoint_that_cannot_be_is_not_made(changes: dict[str, Any], status: int, said: str) -> None:
    body = json.dumps({name: value for name, value in (WANTED | changes).items() if value is not None})
    async with Emulator() as emulator, rest_of(emulator) as rest:
        refused = await rest("POST", ENDPOINTS, body)
        document = refused.json()
        assert (refused.status_code, list(emulator.account.endpoints)) == (status, ["local"])
    assert said in " ".join([document["detail"], *document.get("errors", [])])


async def test_a_template_gives_its_container_and_the_body_overrides_it() -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        container = ContainerConfig(image="from/template:1", disk_gb=7, env={"A": "1", "B": "1"})
        for template_id, serverless in (("tpl", True), ("pods", False)):
            emulator.account.templates[template_id] = Template(
                id=template_id, name=template_id, container=container, serverless=serverless
            )
        body = {name: value for name, value in WANTED.items() if name != "image"}
        made = (await rest("POST", ENDPOINTS, body | {"templateId": "tpl", "env": {"B": "2"}})).json()
        assert (made["image"], made["disk"], made["env"]) == ("from/template:1", 7, {"A": "1", "B": "2"})
        assert (await rest("POST", ENDPOINTS, body | {"templateId": "pods"})).status_code == 422
        other = await rest.created(env={"C": "3"})
        applied = (await rest("PATCH", f"{ENDPOINTS}/{other['id']}", {"templateId": "tpl"})).json()
        assert (applied["image"], applied["env"]) == ("from/template:1", {"A": "1", "B": "1"})


async def test_lists_are_read_page_by_page() -> None:
    async with Emulator(rest_quotas={}) as emulator, rest_of(emulator) as rest:
        made = ["local", *[(await rest.created(workers={"max": 0}))["id"] for _ in range(44)]]
        seen: list[list[str]] = []
        path: str | None = ENDPOINTS
        while path:
            answer = (await rest("GET", path)).json()
            seen.append([one["id"] for one in answer["endpoints"]])
            path = f"{ENDPOINTS}?cursor={answer['nextCursor']}" if "nextCursor" in answer else None
        assert seen == [made[:20], made[20:40], made[40:]]
        for cursor in ("-1", "46", "x", "9" * 5000, "²"):
            assert (await rest("GET", f"{ENDPOINTS}?cursor={cursor}")).status_code == 400, cursor


async def test_the_key_is_asked_for_and_the_answer_shows_no_key() -> None:
    async with Emulator(EndpointSettings(api_key="key")) as emulator:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "key"}):
            async with rest_of(emulator, **headers) as rest:
                refused = await rest("GET", ENDPOINTS)
                assert refused.status_code == 401
                assert "RateLimit" not in refused.headers
        async with rest_of(emulator, **KEY) as rest:
            assert (await rest("GET", ENDPOINTS)).status_code == 200
            assert (await rest("GET", f"{ENDPOINTS}/other")).status_code == 404


async def test_a_quota_is_told_refuses_and_comes_back_after_its_minute() -> None:
    clock = HandClock()
    async with Emulator(rest_quotas={"serverless": 2}, clock=clock) as emulator, rest_of(emulator) as rest:
        first, second, refused = [await rest("GET", ENDPOINTS) for _ in range(3)]
        assert [answer.headers["RateLimit"] for answer in (first, second)] == ['"minute";r=1;t=60', '"minute";r=0;t=60']
        assert first.headers["RateLimit-Policy"] == '"minute";q=2;w=60'
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
        clock.pass_(59.5)
        refused = await rest("GET", ENDPOINTS)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        clock.pass_(0.5)
        assert (await rest("GET", ENDPOINTS)).status_code == 200


async def test_no_quota_refuses_nothing_and_sends_no_header() -> None:
    async with Emulator(rest_quotas={}) as emulator, rest_of(emulator) as rest:
        answers = [await rest("GET", ENDPOINTS) for _ in range(70)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0].headers


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", ENDPOINTS), ("GET", f"{ENDPOINTS}/local/no"), ("PATCH", ENDPOINTS)]
)
async def test_an_operation_that_does_not_exist_is_a_problem(method: str, path: str) -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        answer = await rest.client.request(method, path)
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "endpoint_id", ["serverless", "templates", "network-volumes", "registries", "catalog", "billing"]
)
def test_a_word_of_the_rest_api_is_no_endpoints_id(endpoint_id: str) -> None:
    with pytest.raises(ValueError, match="is a path of the REST API"):
        EndpointSettings(endpoint_id=endpoint_id)


async def test_version_1_is_gone_and_says_what_to_use() -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        for method in ("GET", "PATCH"):
            gone = await rest.client.request(method, "/v1/endpoints/local", json={"workersMin": 1})
            assert (gone.status_code, gone.json()["status"]) == (410, 410)
            assert "/v2/serverless/{id}" in gone.json()["detail"]
        assert emulator.endpoint.minima == []


async def test_management_fails_as_told_and_changes_nothing() -> None:
    async with Emulator() as emulator, rest_of(emulator) as rest:
        change = {"workers": {"min": 1}}
        emulator.inject(Faults(management="error"))
        assert (await rest("PATCH", f"{ENDPOINTS}/local", change)).status_code == 500
        emulator.inject(Faults(management="garbage"))
        garbage = await rest.client.patch(f"{ENDPOINTS}/local", json=change)
        assert (garbage.status_code, garbage.text[:6]) == (200, "<html>")
        emulator.inject(Faults(management="hang"))
        hanging = asyncio.create_task(rest.client.patch(f"{ENDPOINTS}/local", json=change))
        assert (await rest.client.get("/v2/local/health")).status_code == 200
        assert not hanging.done()
        hanging.cancel()
        emulator.inject(Faults())
        assert emulator.endpoint.minima == []
        assert (await rest("PATCH", f"{ENDPOINTS}/local", change)).json()["workers"]["min"] == 1
        assert emulator.endpoint.minima == [1]
