"""The emulator's REST v2: every operation, with good and bad requests, keeps to the published schemas."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from tests.contract.rest_contract import (
    OPERATIONS,
    ContractBroken,
    Recorded,
    check_answer,
    check_events,
    check_request,
    checked_emulator,
    operation_of,
)
from tests.runpod_emulator.support import ECHO_WORKER
from tests.waiting import until

GPU = {"pools": ["AMPERE_24"]}
QUEUE = {"type": "QUEUE_DELAY", "queueDelay": 4}
ENDPOINT = {"name": "chat", "type": "QUEUE", "image": "example/worker:1", "scaling": QUEUE, "gpu": GPU}
TEMPLATE = {"name": "vllm", "image": "example/worker:1", "serverless": True}
VOLUME = {"name": "models", "size": 100, "dataCenter": "EU-RO-1"}
REGISTRY = {"name": "private", "username": "someone", "password": "hidden"}
MADE = {
    "endpoint": ("/v2/serverless", ENDPOINT),
    "template": ("/v2/templates", TEMPLATE),
    "volume": ("/v2/network-volumes", VOLUME),
    "registry": ("/v2/registries", REGISTRY),
}
#: Names in a path that stand for the id of what each test makes first.
Made = dict[str, str]

GOOD: list[tuple[str, str, Any]] = [
    ("GET", "/v2/serverless", None),
    ("POST", "/v2/serverless", ENDPOINT),
    ("POST", "/v2/serverless", ENDPOINT | {"workers": {"min": 0, "max": 1, "idleTimeout": 5}, "env": {"A": "b"}}),
    ("POST", "/v2/serverless", ENDPOINT | {"scaling": {"type": "REQUEST_COUNT", "requestCount": 4}}),
    ("POST", "/v2/serverless", {k: v for k, v in ENDPOINT.items() if k != "image"} | {"templateId": "{template}"}),
    ("POST", "/v2/serverless", ENDPOINT | {"networkVolumes": ["{volume}"], "dataCenterIds": ["EU-RO-1"]}),
    ("GET", "/v2/serverless/{endpoint}", None),
    ("PATCH", "/v2/serverless/{endpoint}", {"workers": {"max": 5}}),
    ("PATCH", "/v2/serverless/{endpoint}", {"image": "example/worker:2", "flashboot": "FLASHBOOT"}),
    ("PATCH", "/v2/serverless/{endpoint}", {"gpu": {"count": 2}}),
    ("PATCH", "/v2/serverless/{endpoint}", {}),
    ("DELETE", "/v2/serverless/{endpoint}", None),
    ("GET", "/v2/serverless/{endpoint}/workers", None),
    ("GET", "/v2/serverless/{endpoint}/releases", None),
    ("GET", "/v2/templates", None),
    ("POST", "/v2/templates", TEMPLATE),
    ("POST", "/v2/templates", TEMPLATE | {"mounts": {"persistent": {"size": 20, "path": "/workspace"}}, "disk": 40}),
    ("GET", "/v2/templates/{template}", None),
    ("PATCH", "/v2/templates/{template}", {"env": {"MODEL": "x"}, "registry": None}),
    ("PATCH", "/v2/templates/{template}", {"allowedCudaVersions": ["12.8"], "category": "AMD"}),
    ("DELETE", "/v2/templates/{template}", None),
    ("GET", "/v2/network-volumes", None),
    ("POST", "/v2/network-volumes", VOLUME),
    ("POST", "/v2/network-volumes", VOLUME | {"type": "HIGH_PERFORMANCE"}),
    ("GET", "/v2/network-volumes/{volume}", None),
    ("PATCH", "/v2/network-volumes/{volume}", {"name": "weights"}),
    ("PATCH", "/v2/network-volumes/{volume}", {"size": 100}),
    ("PATCH", "/v2/network-volumes/{volume}", {"size": 4096}),
    ("DELETE", "/v2/network-volumes/{volume}", None),
    ("GET", "/v2/registries", None),
    ("POST", "/v2/registries", REGISTRY),
    ("GET", "/v2/registries/{registry}", None),
    ("DELETE", "/v2/registries/{registry}", None),
    ("GET", "/v2/catalog/gpus", None),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=SERVERLESS", None),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=SERVERLESS&countryCodes=RO,US&count=2", None),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&cloud=COMMUNITY", None),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&cudaVersions=12.8,99.1", None),
    ("GET", "/v2/catalog/gpus/NVIDIA%20L4", None),
    ("GET", "/v2/catalog/gpus/NVIDIA%20L4?include=AVAILABILITY&product=SERVERLESS&minCudaVersion=12", None),
    ("GET", "/v2/catalog/datacenters", None),
    ("GET", "/v2/catalog/datacenters?include=GPU_AVAILABILITY,CPU_AVAILABILITY", None),
    ("GET", "/v2/catalog/datacenters?regions=EUROPE,ASIA&networkVolumeTypes=STANDARD&compliance=GDPR", None),
    ("GET", "/v2/catalog/datacenters?globalNetwork=true", None),
    ("GET", "/v2/catalog/datacenters/EU-RO-1?include=GPU_AVAILABILITY", None),
    ("GET", "/v2/billing/serverless", None),
    ("GET", "/v2/billing/serverless?lastN=3&bucketSize=hour&serverlessId={endpoint}", None),
    ("GET", "/v2/billing/serverless?startTime=2026-11-01T00:00:00Z&endTime=2026-11-08T00:00:00Z&bucketSize=week", None),
    ("GET", "/v2/billing/serverless?serverlessId=unknown", None),
    ("GET", "/v2/billing/network-volumes?bucketSize=year", None),
    ("GET", "/v2/billing/network-volumes?networkVolumeId={volume}&lastN=1", None),
]

BAD: list[tuple[str, str, Any, int]] = [
    ("POST", "/v2/serverless", ENDPOINT | {"imageName": "x"}, 422),
    ("POST", "/v2/serverless", ENDPOINT | {"type": "POD"}, 422),
    ("POST", "/v2/serverless", ENDPOINT | {"workers": {"idleTimeout": 0}}, 422),
    ("POST", "/v2/serverless", ENDPOINT | {"gpu": {"pools": []}}, 422),
    ("POST", "/v2/serverless", ENDPOINT | {"gpu": {"pools": ["TOASTER_8"]}}, 400),
    ("POST", "/v2/serverless", ENDPOINT | {"env": {"A": 1}}, 422),
    ("POST", "/v2/serverless", {k: v for k, v in ENDPOINT.items() if k != "image"}, 422),
    ("POST", "/v2/serverless", ENDPOINT | {"templateId": "none"}, 404),
    ("POST", "/v2/serverless", "{", 400),
    ("POST", "/v2/serverless", "[]", 422),
    ("GET", "/v2/serverless/none", None, 404),
    ("PATCH", "/v2/serverless/none", {}, 404),
    ("PATCH", "/v2/serverless/{endpoint}", {"workersMin": 2}, 422),
    ("PATCH", "/v2/serverless/{endpoint}", {"gpu": {"excludedTypes": ["NVIDIA L4"]}}, 422),
    ("PATCH", "/v2/serverless/{endpoint}", {"cpu": [{"id": "cpu3c", "vcpuCount": 2}]}, 400),
    ("DELETE", "/v2/serverless/none", None, 404),
    ("GET", "/v2/serverless/none/workers", None, 404),
    ("GET", "/v2/serverless/none/releases", None, 404),
    ("GET", "/v2/serverless/{endpoint}/workers/none/logs", None, 404),
    ("POST", "/v2/templates", {"name": "t"}, 422),
    ("POST", "/v2/templates", TEMPLATE | {"mounts": {"network": {}}}, 422),
    ("POST", "/v2/templates", TEMPLATE | {"allowedCudaVersions": ["12"]}, 422),
    ("PATCH", "/v2/templates/{template}", {"name": None}, 422),
    ("GET", "/v2/templates/none", None, 404),
    ("DELETE", "/v2/templates/none", None, 404),
    ("POST", "/v2/network-volumes", VOLUME | {"size": 9}, 422),
    ("POST", "/v2/network-volumes", VOLUME | {"size": 4097}, 422),
    ("POST", "/v2/network-volumes", VOLUME | {"size": 1e99}, 422),
    ("POST", "/v2/network-volumes", VOLUME | {"size": "100"}, 422),
    ("POST", "/v2/network-volumes", VOLUME | {"dataCenter": "MOON-1"}, 400),
    ("POST", "/v2/network-volumes", VOLUME | {"dataCenter": "EU-CZ-1", "type": "HIGH_PERFORMANCE"}, 400),
    ("PATCH", "/v2/network-volumes/{volume}", {"size": 99}, 400),
    ("PATCH", "/v2/network-volumes/{volume}", {}, 422),
    ("PATCH", "/v2/network-volumes/{volume}", {"dataCenter": "EU-RO-1"}, 422),
    ("DELETE", "/v2/network-volumes/none", None, 404),
    ("POST", "/v2/registries", {"name": "r", "username": "u"}, 422),
    ("PATCH", "/v2/registries/{registry}", {"name": "r"}, 404),
    ("DELETE", "/v2/registries/none", None, 404),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY", None, 400),
    ("GET", "/v2/catalog/gpus?product=POD", None, 400),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&cudaVersions=12", None, 422),
    ("GET", "/v2/catalog/gpus?include=AVAILABILITY&product=POD&cudaVersions=12.8&minCudaVersion=12", None, 400),
    ("GET", "/v2/catalog/gpus?include=EVERYTHING", None, 422),
    ("GET", "/v2/catalog/gpus/none", None, 404),
    ("GET", "/v2/catalog/datacenters?country=RO", None, 400),
    ("GET", "/v2/catalog/datacenters?globalNetwork=yes", None, 422),
    ("GET", "/v2/catalog/datacenters/none", None, 404),
    ("GET", "/v2/billing/serverless?bucketSize=minute", None, 422),
    ("GET", "/v2/billing/serverless?lastN=0", None, 422),
    ("GET", "/v2/billing/serverless?lastN=99999", None, 422),
    ("GET", "/v2/billing/serverless?lastN=3&endTime=2026-11-01T00:00:00Z", None, 400),
    ("GET", "/v2/billing/serverless?startTime=yesterday", None, 422),
    ("GET", "/v2/billing/serverless?startTime=2026-13-01T00:00:00Z", None, 422),
    ("GET", "/v2/billing/serverless?startTime=0001-01-01T00:00:00Z&bucketSize=hour", None, 400),
    ("GET", "/v2/billing/serverless?grouping=gpu", None, 400),
    ("GET", "/v2/billing/endpoints", None, 404),
    ("PUT", "/v2/serverless/{endpoint}", {}, 404),
]


def named(method: str, path: str, *_: object) -> str:
    return f"{method} {path}"


async def ask(emulator: Emulator, method: str, path: str, body: object, made: Made | None = None) -> httpx.Response:
    """Sends one request; text is sent as it is, everything else as JSON."""
    content = None if body is None else body if isinstance(body, str) else with_ids(json.dumps(body), made or {})
    path = with_ids(path, made or {})
    async with httpx.AsyncClient(base_url=emulator.origin, trust_env=False, verify=False) as client:
        return await client.request(method, path, content=content)


def with_ids(text: str, made: Made) -> str:
    """Returns a text in which the names in braces are ids."""
    for name, made_id in made.items():
        text = text.replace(f"{{{name}}}", made_id)
    return text


async def made_in(emulator: Emulator) -> Made:
    return {name: (await ask(emulator, "POST", path, body)).json()["id"] for name, (path, body) in MADE.items()}


@pytest.mark.parametrize(("method", "path", "body"), GOOD, ids=[named(*case) for case in GOOD])
async def test_a_good_request_succeeds_as_published(method: str, path: str, body: object) -> None:
    async with checked_emulator(ours=True) as (emulator, recorded):
        answer = await ask(emulator, method, path, body, await made_in(emulator))
    assert answer.status_code == operation_of(method, answer.request.url.raw_path.decode().partition("?")[0]).success
    assert len(recorded.exchanges) == 5


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD, ids=[named(*case) for case in BAD])
async def test_a_bad_request_is_a_problem_that_says_what_to_do(
    method: str, path: str, body: object, status: int
) -> None:
    async with checked_emulator() as (emulator, _):
        before = await made_in(emulator)
        answer = await ask(emulator, method, path, body, before)
        listed = {name: (await ask(emulator, "GET", where, None)).json() for name, (where, _) in MADE.items()}
    assert answer.status_code == status
    assert answer.json()["detail"]
    assert [len(next(iter(document.values()))) for document in listed.values()] == [2, 1, 1, 1]


async def test_whatever_a_body_holds_the_schema_decides_and_nothing_fails() -> None:
    """Bodies with random members changed, added and taken away, the same in every run."""
    chance = random.Random(16)
    accepted = 0
    async with checked_emulator() as (emulator, recorded), httpx.AsyncClient(verify=False, trust_env=False) as client:
        made = await made_in(emulator)
        for _ in range(600):
            method, path, body = chance.choice([case for case in GOOD if case[2]])
            changed = mutated(json.loads(with_ids(json.dumps(body), made)), chance)
            content = json.dumps(changed)
            answer = await client.request(method, emulator.origin + with_ids(path, made), content=content)
            assert answer.status_code in (200, 201, 400, 404, 422, 501), content
            accepted += answer.status_code < 400
            if answer.status_code == 201:
                await client.delete(f"{emulator.origin}{path}/{answer.json()['id']}")
    assert accepted > 50
    assert recorded.broken == []


def mutated(document: Any, chance: random.Random) -> Any:
    """Returns a document of which up to two members are changed, added or taken away."""
    for _ in range(chance.randint(0, 2)):
        within = chance.choice(list(objects_in(document)))
        name = chance.choice([*within, *MEMBERS])
        if name in within and chance.random() < 0.4:
            del within[name]
        else:
            within[name] = copy.deepcopy(chance.choice(VALUES))
    return document


def objects_in(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
        for member in document.values():
            yield from objects_in(member)


MEMBERS = (
    *("name", "image", "disk", "env", "ports", "registry", "type", "scaling", "templateId", "gpu", "pools", "count"),
    *("excludedTypes", "minCudaVersion", "cpu", "dataCenterIds", "networkVolumes", "flashboot", "timeout", "workers"),
    *("min", "max", "idleTimeout", "category", "mounts", "size", "public", "dataCenter", "password", "unheard"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**40, float("inf"), float("nan"), "", "x", "\x00", "QUEUE", "12.8", "EU-RO-1", 10, 100),
    *([], {}, ["x"], [1], ["x", "x"], {"a": 1}, {"min": 1}, {"pools": ["AMPERE_24"]}, {"excludedTypes": ["x"]}),
    *({"type": "REQUEST_COUNT", "requestCount": 1}, {"type": "QUEUE_DELAY", "queueDelay": 0.1}),
)


def test_every_operation_is_asked_well() -> None:
    asked = {operation_of(method, path.partition("?")[0].replace("{", "").replace("}", "")) for method, path, _ in GOOD}
    assert {operation.path.split("/")[-1] for operation in set(OPERATIONS) - asked} == {"logs"}  # it has the next test


async def test_a_workers_log_and_a_new_release_are_as_published() -> None:
    settings = EndpointSettings(endpoint_id="ep", idle_timeout_seconds=0.1)
    async with checked_emulator(settings, ECHO_WORKER, ours=True) as (emulator, recorded):
        changed = await ask(emulator, "PATCH", "/v2/serverless/ep", {"image": "example/worker:2", "env": {"A": "b"}})
        assert changed.status_code == 200
        assert (await ask(emulator, "POST", "/v2/ep/runsync", {"input": {"a": 1}})).json()["status"] == "COMPLETED"
        assert (await ask(emulator, "GET", "/v2/serverless/ep/workers", None)).status_code == 200
        await until(lambda: all(worker.exit_code is not None for worker in emulator.workers.values()))
        assert len((await ask(emulator, "GET", "/v2/serverless/ep/releases", None)).json()["releases"]) == 2
        (worker,) = emulator.workers
        path = f"/v2/serverless/ep/workers/{worker}/logs"
        log = await ask(emulator, "GET", f"{path}?tail=5000&source=container", None)
        check_answer("GET", path, log.status_code, log.content, log.headers)
        assert check_events(log.text) > 0
        newer = await ask(emulator, "GET", f"{path}?source=container&since=2026-11-29T00:00:00Z&tail=0", None)
        check_answer("GET", path, newer.status_code, newer.content, newer.headers)
    assert len(recorded.exchanges) == 5


@pytest.mark.parametrize("query", ["tail=5001", "tail=-1", "source=kernel", "since=yesterday", "since=2026-11-29"])
async def test_a_wrong_question_for_a_log_is_a_problem(query: str) -> None:
    async with checked_emulator() as (emulator, _):
        emulator.endpoint.registry.start("w1")
        assert (await ask(emulator, "GET", f"/v2/serverless/local/workers/w1/logs?{query}", None)).status_code == 422


async def test_what_breaks_the_contract_is_reported_at_the_emulators_end() -> None:
    async def wrong_request() -> None:
        async with checked_emulator(ours=True) as (emulator, recorded):
            await ask(emulator, "PATCH", "/v2/serverless/local", {"workersMin": 1})
            assert recorded.exchanges == ["PATCH /v2/serverless/local 422"]

    with pytest.raises(ContractBroken, match="workersMin"):
        await wrong_request()


async def test_the_job_api_is_not_held_against_rest() -> None:
    async with checked_emulator() as (emulator, recorded):
        await ask(emulator, "POST", "/v2/local/run", {"input": 1})
    assert recorded.exchanges == []


async def test_without_the_key_every_resource_answers_401() -> None:
    async with checked_emulator(EndpointSettings(api_key="key")) as (emulator, recorded):
        for path, _ in MADE.values():
            assert (await ask(emulator, "GET", path, None)).status_code == 401
    assert len(recorded.exchanges) == len(MADE)


def test_no_test_sends_what_the_schema_refuses_where_it_expects_success() -> None:
    for method, path, body in GOOD:
        where, _, query = path.partition("?")
        check_request(method, where, query, b"" if body is None else json.dumps(body).encode())
    assert Recorded().broken == []
