"""Setting workersMin: on the real emulator over the gateway's own connections, and on a platform that answers oddly."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults
from vllm_service.catalog.model import Provider, ProviderKind, WorkersMin
from vllm_service.errors import UpstreamFailed
from vllm_service.http.pool import ConnectionPool
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import Reply
from vllm_service.runpod.management import RunPodManagement

KEY = "secret-key"


def managing(url: str, send: Any, key: str | None = KEY, timeout_seconds: float = 5.0) -> RunPodManagement:
    provider = Provider("own", ProviderKind.RUNPOD, "http://x/v1", key)
    return RunPodManagement(provider, WorkersMin(f"{url}/v1/endpoints/ep"), send, timeout_seconds)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(EndpointSettings(endpoint_id="ep", api_key=KEY, max_workers=3, tick_seconds=0.02)) as emulator:
        yield emulator


@pytest.fixture
async def http() -> AsyncIterator[ControlHttp]:
    connections = ConnectionPool()
    yield ControlHttp(connections)
    await connections.close()


async def test_workers_min_is_set_and_what_is_so_already_is_not_ordered_again(
    emulator: Emulator, http: ControlHttp
) -> None:
    management = managing(emulator.origin, http)
    assert [await management.ensure(workers) for workers in (0, 3, 3, 1, 0)] == [False, True, False, True, True]
    assert emulator.endpoint.minima == [3, 1, 0]


@pytest.mark.parametrize(
    ("key", "workers", "complaint"),
    [("wrong", 1, "did not take workersMin 1, status 401"), (KEY, 4, "did not take workersMin 4, status 400")],
)
async def test_a_refusal_is_told_with_its_status_and_without_the_key(
    emulator: Emulator, http: ControlHttp, key: str, workers: int, complaint: str
) -> None:
    with pytest.raises(UpstreamFailed, match=f"^own: {complaint}$"):
        await managing(emulator.origin, http, key).ensure(workers)
    assert emulator.endpoint.minima == []


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [("error", "status 500"), ("garbage", "is not RunPod: no JSON"), ("hang", r"no answer .*\(TimeoutError|OSError\)")],
)
async def test_a_platform_that_fails_is_told_and_later_does_as_it_is_told(
    emulator: Emulator, http: ControlHttp, fault: str, complaint: str
) -> None:
    emulator.inject(Faults(management=fault))
    with pytest.raises(UpstreamFailed, match=complaint):
        await managing(emulator.origin, http, timeout_seconds=0.1).ensure(2)
    emulator.inject(Faults())
    assert emulator.endpoint.minima == []
    assert await managing(emulator.origin, http).ensure(2)


@dataclass
class Odd:
    """A SendHttp: what is answered to a GET, one after the other, and to the PATCH. An exception is raised."""

    looks: list[Reply | Exception]
    change: Reply | Exception
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def __call__(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Reply:
        self.asked.append((method, url, dict(headers), body))
        answer = self.change if method == "PATCH" else self.looks.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def says(document: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(document).encode(), {})


NONE, THREE, NOTHING = says({"workersMin": 0}), says({"workersMin": 3}), says({"id": "ep"})
HTML = Reply(200, b"<html>", {})


async def test_what_is_asked_is_what_runpods_reference_says() -> None:
    odd = Odd([NONE, THREE], THREE)
    assert await managing("https://rest.runpod.io", odd).ensure(3)
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    url = "https://rest.runpod.io/v1/endpoints/ep"
    assert odd.asked == [
        ("GET", url, headers, b""),
        ("PATCH", url, headers, b'{"workersMin": 3}'),
        ("GET", url, headers, b""),
    ]


@pytest.mark.parametrize(
    ("looks", "change"),
    [
        ([NONE, THREE], HTML),
        ([NONE, THREE], Reply(204, b"", {})),
        ([NONE, THREE], NONE),  # its response is no proof
        ([HTML, HTML], THREE),
        ([TimeoutError(), TimeoutError()], NOTHING),
        ([says({}, 403), says({}, 403)], says({})),
        ([NOTHING, says({"workersMin": "3"})], says({"workersMin": True})),
        ([NONE, says({"workersMin": 3.0})], NOTHING),
    ],
)
async def test_the_answer_is_read_leniently(looks: list[Reply | Exception], change: Reply) -> None:
    assert await managing("http://x", Odd(looks, change)).ensure(3)


@pytest.mark.parametrize(
    ("looks", "change", "complaint"),
    [
        ([NONE, NONE], THREE, "workersMin is 0 after it was set to 3"),
        ([NONE, HTML], NONE, "workersMin is 0 after it was set to 3"),
        ([NONE, HTML], HTML, "is not RunPod"),
        ([NONE, ConnectionResetError()], Reply(200, b"[]", {}), "is not RunPod"),
        ([NONE, NONE], ConnectionResetError("secret"), r"no answer to workersMin 3 \(ConnectionResetError\)$"),
        ([NONE, NONE], says({"error": KEY}, 422), "status 422$"),
        ([NONE, NONE], says({}, 302), "status 302$"),
    ],
)
async def test_what_was_not_done_is_told(
    looks: list[Reply | Exception], change: Reply | Exception, complaint: str
) -> None:
    with pytest.raises(UpstreamFailed, match=complaint) as failed:
        await managing("http://x", Odd(looks, change)).ensure(3)
    assert "secret" not in failed.value.message
