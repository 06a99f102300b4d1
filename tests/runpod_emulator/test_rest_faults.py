"""Faults of the REST API: each refusal with its problem, and each answer spoiled as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, Faults
from runpod_emulator.api.rest.faults import RETRY_AFTER_SECONDS
from runpod_emulator.endpoint.faults import REST_STATUSES
from runpod_emulator.errors import BadRequest

VOLUME = {"name": "models", "size": 100, "dataCenter": "EU-RO-1"}


@asynccontextmanager
async def faulty(**faults: Any) -> AsyncIterator[tuple[Emulator, httpx.AsyncClient]]:
    async with (
        Emulator(rest_quotas={}) as emulator,
        httpx.AsyncClient(base_url=f"{emulator.origin}/v2", trust_env=False, verify=False, timeout=20) as client,
    ):
        emulator.inject(Faults(**faults))
        yield emulator, client


@pytest.mark.parametrize("status", REST_STATUSES)
@pytest.mark.parametrize(("method", "path"), [("GET", "/serverless"), ("POST", "/network-volumes")])
async def test_a_refusal_is_a_problem_and_carries_nothing_out(status: str, method: str, path: str) -> None:
    async with faulty(rest=status) as (emulator, client):
        answer = await client.request(method, path, json=VOLUME if method == "POST" else None)
        assert emulator.account.volumes.existing == []
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert (answer.status_code, answer.json()["status"]) == (int(status), int(status))
    assert "injected" in answer.json()["detail"]
    if status == "429":
        assert answer.headers["Retry-After"] == str(RETRY_AFTER_SECONDS)
        assert f"r=0;t={RETRY_AFTER_SECONDS}" in answer.headers["RateLimit"]
        assert "q=60" in answer.headers["RateLimit-Policy"]


async def test_a_page_of_html_comes_with_status_200() -> None:
    async with faulty(rest="html") as (_, client):
        answer = await client.get("/templates")
    assert (answer.status_code, answer.text[:6]) == (200, "<html>")
    assert answer.headers["content-type"].startswith("text/html")


async def test_a_cut_answer_ends_before_its_length_and_what_was_asked_is_done() -> None:
    async with faulty(rest="cut") as (emulator, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/network-volumes", json=VOLUME)
        assert [volume.name for volume in emulator.account.volumes.existing] == ["models"]


async def test_a_slow_answer_comes_byte_by_byte() -> None:
    async with faulty(rest="slow") as (emulator, client), client.stream("GET", "/catalog/datacenters") as answer:
        pieces = answer.aiter_raw()
        assert (answer.status_code, await anext(pieces)) == (200, b"{")
        assert int(answer.headers["content-length"]) > 1000
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(pieces), 0.1)
        emulator.inject(Faults())


async def test_an_extra_field_is_in_the_answer_and_in_the_objects_of_its_list() -> None:
    async with faulty(rest="extra_field") as (_, client):
        listed = (await client.get("/serverless")).json()
        shown = (await client.get("/serverless/local")).json()
        missing = await client.get("/serverless/none")
    assert "fieldOfNextYear" in listed
    assert "fieldOfNextYear" in listed["endpoints"][0]
    assert shown.keys() == listed["endpoints"][0].keys()
    assert missing.status_code == 404


async def test_amounts_keep_their_digits_beside_an_extra_field() -> None:
    async with faulty() as (emulator, client):
        plain = (await client.get("/catalog/gpus")).text
        emulator.inject(Faults(rest="extra_field"))
        spoiled = (await client.get("/catalog/gpus")).text
    assert '"serverless": 0.684' in plain
    assert '"serverless": 0.684' in spoiled


async def test_pages_never_end_and_no_cursor_comes_twice() -> None:
    cursors = []
    async with faulty(rest="endless_pages") as (_, client):
        query: dict[str, str] = {}
        for _ in range(5):
            document = (await client.get("/serverless", params=query)).json()
            assert [endpoint["id"] for endpoint in document["endpoints"]] == ["local"]
            query = {"cursor": document["nextCursor"]}
            cursors.append(document["nextCursor"])
        assert "nextCursor" not in (await client.get("/serverless/local")).json()
    assert len(set(cursors)) == 5


@pytest.mark.parametrize(
    ("on", "method", "path", "status"),
    [
        ("/v2/network-volumes", "GET", "/network-volumes", 500),
        ("/v2/network-volumes", "GET", "/templates", 200),
        ("POST /v2/network-volumes", "GET", "/network-volumes", 200),
        ("POST /v2/network-volumes", "POST", "/network-volumes", 500),
        ("GET /v2/serverless/local/workers", "GET", "/serverless/local", 200),
        ("GET /v2/serverless/local/workers", "GET", "/serverless/local/workers", 500),
    ],
)
async def test_a_fault_may_be_of_some_requests_only(on: str, method: str, path: str, status: int) -> None:
    async with faulty(rest="500", rest_on=on) as (_, client):
        answer = await client.request(method, path, json=VOLUME if method == "POST" else None)
    assert answer.status_code == status


@pytest.mark.parametrize("fault", [{"rest": "418"}, {"rest": 500}, {"rest_on": "serverless"}, {"rest_on": 1}])
async def test_a_fault_that_does_not_exist_is_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(fault))):
        Faults.parse(json.loads(json.dumps(fault)))


async def test_the_job_api_is_not_touched() -> None:
    async with faulty(rest="500") as (_, client):
        assert (await client.get("/local/health")).status_code == 200
