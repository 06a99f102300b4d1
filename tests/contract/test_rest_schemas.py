"""The schemas of REST v2 are valid, cover every operation in use, and tell right documents from wrong ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.contract.rest_contract import (
    EVENTS,
    JSON,
    OPERATIONS,
    PROBLEM,
    ContractBroken,
    check_answer,
    check_events,
    check_request,
    checked,
    schema_files,
    validator,
)
from vllm_service.runpod.endpoint import Reply

# Every operation that the service calls or the emulator answers.
USED = """
GET POST /v2/serverless
GET PATCH DELETE /v2/serverless/{id}
GET /v2/serverless/{id}/workers
GET /v2/serverless/{id}/releases
GET /v2/serverless/{id}/workers/{worker}/logs
GET POST /v2/templates
GET PATCH DELETE /v2/templates/{id}
GET POST /v2/network-volumes
GET PATCH DELETE /v2/network-volumes/{id}
GET POST /v2/registries
GET DELETE /v2/registries/{id}
GET /v2/catalog/gpus
GET /v2/catalog/gpus/{id}
GET /v2/catalog/datacenters
GET /v2/catalog/datacenters/{id}
GET /v2/billing/serverless
GET /v2/billing/network-volumes
"""
ENDPOINT = {
    "name": "chat",
    "type": "QUEUE",
    "image": "example/worker:1",
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "gpu": {"pools": ["AMPERE_24"], "excludedTypes": ["NVIDIA L4"], "count": 1, "minCudaVersion": "12.8"},
    "workers": {"min": 0, "max": 3, "idleTimeout": 5},
    "env": {"MODEL_NAME": "x"},
}
ANSWERED = {
    "id": "ep1",
    "name": "chat",
    "type": "QUEUE",
    "workers": {"min": 0, "max": 3, "idleTimeout": 5},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
    "gpu": {"pools": ["AMPERE_24"], "allowedCudaVersions": [], "minCudaVersion": None},
    "dataCenterIds": [],
    "networkVolumes": [],
    "timeout": 300000,
    "flashboot": "OFF",
    "createdAt": "2026-11-29T10:00:00Z",
}
VOLUME = {"name": "models", "size": 100, "dataCenter": "EU-RO-1"}
WORKER = {"id": "w1", "status": "IDLE", "gpuCount": 1, "isStale": False, "startedAt": "2026-11-29T10:00:00.5Z"}
SUMMARY = {"running": 0, "idle": 1, "initializing": 0, "throttled": 0, "unhealthy": 0, "total": 1}
AMOUNTS = {"totalAmount": 0.3, "gpuAmount": 0.1, "cpuAmount": 0, "diskAmount": 0.2, "feeAmount": 0}
DAY = {"startTime": "2026-11-28T00:00:00Z", "endTime": "2026-11-29T00:00:00Z"}
BILL = {
    "records": [DAY | AMOUNTS | {"serverlessId": "ep1"}],
    "metadata": {
        "query": DAY | {"bucketSize": "day", "serverlessId": None},
        "recordCount": 1,
        "uniqueServerlessCount": 1,
        "totals": AMOUNTS,
    },
}
PROBLEM_404 = {"title": "Not Found", "status": 404, "detail": "endpoint ep9 not found"}
JSON_HEADERS = {"Content-Type": f"{JSON}; charset=utf-8"}


def text_of(document: object) -> bytes:
    return b"" if document is None else json.dumps(document).encode()


@pytest.mark.parametrize("name", schema_files())
def test_a_schema_file_is_valid_and_its_definitions_resolve(name: str) -> None:
    document = schema_files()[name]
    Draft202012Validator.check_schema(document)
    assert document["$id"] == name
    for definition in document["$defs"]:
        values: list[object] = [{}, [], "x", 1, None]
        for value in values:
            validator(f"{name.removesuffix('.json')}#{definition}").is_valid(value)


def test_every_operation_in_use_has_schemas_and_no_other() -> None:
    lines = [line.split() for line in USED.strip().splitlines()]
    used = {(method, words[-1]) for words in lines for method in words[:-1]}
    assert {(operation.method, operation.path) for operation in OPERATIONS} == used
    assert len(OPERATIONS) == len(used)
    for operation in OPERATIONS:
        for schema in filter(None, (operation.query, operation.body, operation.answer)):
            file, _, definition = schema.partition("#")
            assert definition in schema_files()[f"{file}.json"]["$defs"]


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("POST", "/v2/serverless", "", ENDPOINT),
        ("POST", "/v2/serverless", "", {k: v for k, v in ENDPOINT.items() if k != "image"} | {"templateId": "t1"}),
        ("PATCH", "/v2/serverless/ep1", "", {"workers": {"min": 2}}),
        ("PATCH", "/v2/serverless/ep1", "", {"gpu": {"minCudaVersion": ""}}),
        ("PATCH", "/v2/network-volumes/v1", "", {"size": 4096}),
        ("GET", "/v2/serverless", "cursor=abc", None),
        ("GET", "/v2/catalog/gpus", "include=AVAILABILITY&product=SERVERLESS,POD&count=2", None),
        ("GET", "/v2/catalog/datacenters", "include=GPU_AVAILABILITY,CPU_AVAILABILITY&globalNetwork=true", None),
        ("GET", "/v2/serverless/ep1/workers/w1/logs", "tail=5000&source=system", None),
        ("GET", "/v2/billing/serverless", "startTime=2026-11-28T00:00:00Z&bucketSize=hour&serverlessId=ep1", None),
        ("GET", "/v2/billing/network-volumes", "lastN=30", None),
    ],
)
def test_a_right_request_passes(method: str, path: str, query: str, body: object) -> None:
    check_request(method, path, query, text_of(body))


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "named"),
    [
        ("POST", "/v2/serverless", "", ENDPOINT | {"imageName": "x"}, "imageName"),
        ("POST", "/v2/serverless", "", ENDPOINT | {"gpu": {"count": 1}}, "pools"),
        ("POST", "/v2/serverless", "", ENDPOINT | {"type": "LOAD_BALANCER"}, "scaling"),
        ("POST", "/v2/serverless", "", {k: v for k, v in ENDPOINT.items() if k != "image"}, "anyOf"),
        ("POST", "/v2/serverless", "", {k: v for k, v in ENDPOINT.items() if k != "scaling"}, "scaling"),
        ("PATCH", "/v2/serverless/ep1", "", {"workersMin": 2}, "workersMin"),
        ("PATCH", "/v2/serverless/ep1", "", {"workers": {"min": -1}}, "min"),
        ("PATCH", "/v2/serverless/ep1", "", {"workers": {"idleTimeout": 3601}}, "idleTimeout"),
        ("PATCH", "/v2/serverless/ep1", "", {"gpu": {"excludedTypes": ["NVIDIA L4"]}}, "pools"),
        ("PATCH", "/v2/serverless/ep1", "", {"env": {"A": 1}}, "env"),
        ("PATCH", "/v2/serverless/ep1", "", None, "no JSON"),
        ("GET", "/v2/serverless/ep1", "", {}, "body"),
        ("GET", "/v2/serverless/ep1", "full=1", None, "full"),
        ("GET", "/v2/serverless/ep1/workers/w1/logs", "tail=5001", None, "tail"),
        ("POST", "/v2/templates", "", {"name": "t"}, "image"),
        ("POST", "/v2/network-volumes", "", VOLUME | {"size": 9}, "size"),
        ("POST", "/v2/network-volumes", "", VOLUME | {"dataCenterId": "EU-RO-1"}, "dataCenterId"),
        ("PATCH", "/v2/network-volumes/v1", "", {}, "minProperties"),
        ("POST", "/v2/registries", "", {"name": "r", "username": "u"}, "password"),
        ("PATCH", "/v2/registries/r1", "", {"name": "r"}, "no such operation"),
        ("GET", "/v2/catalog/gpus", "include=AVAILABILITY", None, "dependentRequired"),
        ("GET", "/v2/catalog/gpus", "product=POD", None, "dependentRequired"),
        ("GET", "/v2/billing/serverless", "lastN=3&startTime=2026-11-28T00:00:00Z", None, "startTime"),
        ("GET", "/v2/billing/serverless", "bucketSize=minute", None, "bucketSize"),
        ("GET", "/v2/billing/serverless", "bucketSize=day&bucketSize=hour", None, "repeated"),
        ("GET", "/v2/billing/serverless", "startTime=2026-11-28", None, "startTime"),
        ("GET", "/v2/billing/endpoints", "", None, "no such operation"),
    ],
)
def test_a_wrong_request_is_named(method: str, path: str, query: str, body: object, named: str) -> None:
    with pytest.raises(ContractBroken, match=named):
        check_request(method, path, query, text_of(body))


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v2/serverless/ep1", ANSWERED),
        ("/v2/serverless/ep1", ANSWERED | {"fieldOfNextYear": 1, "workers": {"min": 0, "max": 1, "standby": 2}}),
        ("/v2/serverless", {"endpoints": [ANSWERED], "nextCursor": "abc"}),
        ("/v2/serverless/ep1/workers", {"workers": [WORKER], "summary": SUMMARY, "endpointVersion": 3}),
        ("/v2/billing/serverless", BILL),
    ],
)
def test_a_right_answer_passes_with_fields_that_are_new(path: str, document: object) -> None:
    check_answer("GET", path, 200, text_of(document), JSON_HEADERS)


@pytest.mark.parametrize(
    ("path", "document", "named"),
    [
        ("/v2/serverless/ep1", ANSWERED | {"flashboot": True}, "flashboot"),
        ("/v2/serverless/ep1", ANSWERED | {"createdAt": "2026-11-29 10:00:00"}, "createdAt"),
        ("/v2/serverless/ep1", ANSWERED | {"scaling": {"type": "REQUEST_COUNT", "requestCount": 4}}, "idleTimeout"),
        ("/v2/serverless", [ANSWERED], "type"),
        ("/v2/serverless/ep1/workers", {"workers": [WORKER | {"status": "running"}], "summary": SUMMARY}, "status"),
        ("/v2/serverless/ep1/workers", {"workers": [WORKER]}, "summary"),
        ("/v2/registries/r1", {"id": "r1", "name": "r", "password": "p"}, "password"),
        ("/v2/billing/serverless", {"records": [], "metadata": {}}, "totals"),
        ("/v2/billing/serverless", BILL | {"records": [DAY | AMOUNTS]}, "serverlessId"),
        ("/v2/network-volumes/v1", VOLUME | {"id": "v1", "type": "FAST"}, "type"),
    ],
)
def test_a_wrong_answer_is_named_without_its_values(path: str, document: object, named: str) -> None:
    with pytest.raises(ContractBroken, match=named):
        check_answer("GET", path, 200, text_of(document), JSON_HEADERS)


PROBLEM_HEADERS = {"content-type": PROBLEM}


@pytest.mark.parametrize(
    ("status", "body", "headers", "named"),
    [
        (200, b"<html></html>", {"content-type": "text/html"}, "Content-Type"),
        (200, b'{"id":', JSON_HEADERS, "no JSON"),
        (200, b'{"id": NaN}', JSON_HEADERS, "NaN"),
        (204, b"", {}, "not published"),
        (404, text_of({"error": "no"}), PROBLEM_HEADERS, "title"),
        (404, text_of(PROBLEM_404), JSON_HEADERS, "Content-Type"),
        (409, text_of(PROBLEM_404), PROBLEM_HEADERS, "status is 404"),
        (429, text_of(PROBLEM_404 | {"status": 429}), PROBLEM_HEADERS, "Retry-After"),
        (404, text_of(PROBLEM_404), PROBLEM_HEADERS | {"RateLimit": "minute;r=0"}, "ratelimit"),
    ],
)
def test_an_answer_that_is_neither_success_nor_problem_is_named(
    status: int, body: bytes, headers: Mapping[str, str], named: str
) -> None:
    with pytest.raises(ContractBroken, match=named):
        check_answer("GET", "/v2/serverless/ep1", status, body, headers)


def test_a_problem_passes_with_its_headers() -> None:
    headers = PROBLEM_HEADERS | {"Retry-After": "12", "RateLimit": '"minute";r=0;t=12, "day";r=1;t=9'}
    check_answer("GET", "/v2/serverless/ep1", 404, text_of(PROBLEM_404), headers)
    check_answer("GET", "/v2/serverless/ep1", 429, text_of(PROBLEM_404 | {"status": 429}), headers)


def test_an_answer_to_a_deletion_has_no_body() -> None:
    check_answer("DELETE", "/v2/serverless/ep1", 204, b"", {})
    with pytest.raises(ContractBroken, match="has a body"):
        check_answer("DELETE", "/v2/serverless/ep1", 204, b"{}", JSON_HEADERS)


def test_log_events_have_their_time_as_id() -> None:
    data = json.dumps({"source": "container", "line": "a: b", "ts": "2026-11-29T10:00:00Z"})
    right = f": open\n\nid: 2026-11-29T10:00:00Z\ndata: {data}\n\n"
    assert check_events(right * 2) == 2
    check_answer("GET", "/v2/serverless/ep1/workers/w1/logs", 200, right.encode(), {"content-type": EVENTS})
    with pytest.raises(ContractBroken, match="id"):
        check_events(f"id: 7\ndata: {data}\n\n")


class Answers:
    """A send that answers what it is told to, and remembers what was sent."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.sent: list[str] = []

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        self.sent.append(f"{method} {url}")
        return Reply(200, text_of(self.document), {"content-type": JSON})


async def test_our_own_requests_and_what_answers_them_are_checked_and_the_job_api_is_not() -> None:
    answers = Answers(ANSWERED)
    send = checked(answers)
    reply = await send("PATCH", "https://api.example/v2/serverless/ep1", {}, b'{"workers": {"min": 1}}', 5)
    assert json.loads(reply.body) == ANSWERED
    with pytest.raises(ContractBroken, match="workersMin"):
        await send("PATCH", "https://api.example/v2/serverless/ep1", {}, b'{"workersMin": 1}', 5)
    assert len(answers.sent) == 1
    answers.document = {"jobs": {}}
    await send("GET", "https://api.example/v2/ep1/health", {}, b"", 5)
    with pytest.raises(ContractBroken, match="'id' is a required"):
        await send("GET", "https://api.example/v2/serverless/ep1", {}, b"", 5)
