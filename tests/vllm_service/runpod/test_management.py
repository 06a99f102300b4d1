"""Setting workersMin: on the real emulator over the gateway's own connections, and on a platform that answers oddly."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults
from vllm_service.catalog.model import Management, ManagementApi, Provider, ProviderKind
from vllm_service.errors import UpstreamFailed
from vllm_service.http.pool import ConnectionPool
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import Reply
from vllm_service.runpod.management import RunPodManagement
from vllm_service.runpod.rate_limits import RateLimits

KEY = "secret-key"
V1, V2 = ManagementApi.V1, ManagementApi.V2
SERVED = (V1, V2)


def managing(
    origin: str,
    send: Any,
    api: ManagementApi = V2,
    key: str | None = KEY,
    *,
    timeout_seconds: float = 5.0,
    limits: RateLimits | None = None,
) -> RunPodManagement:
    provider = Provider("own", ProviderKind.RUNPOD, "http://x/v1", key)
    return RunPodManagement(provider, Management("ep", origin, api), send, timeout_seconds, limits=limits)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    settings = EndpointSettings(endpoint_id="ep", api_key=KEY, max_workers=3, tick_seconds=0.02)
    async with Emulator(settings, management_v1=True) as emulator:
        yield emulator


@pytest.fixture
async def http() -> AsyncIterator[ControlHttp]:
    connections = ConnectionPool()
    yield ControlHttp(connections)
    await connections.close()


@pytest.mark.parametrize("api", SERVED)
async def test_workers_min_is_set_and_what_is_so_already_is_not_ordered_again(
    emulator: Emulator, http: ControlHttp, api: ManagementApi
) -> None:
    management = managing(emulator.origin, http, api)
    assert [await management.ensure(workers) for workers in (0, 3, 3, 1, 0)] == [False, True, False, True, True]
    assert emulator.endpoint.minima == [3, 1, 0]


@pytest.mark.parametrize("api", SERVED)
@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (
            ("wrong-key", 1),
            "workersMin 1 was not set: PATCH .*: RunPod answered 401.*; set the variable that api_key_env",
        ),
        ((KEY, 4), "workersMin 4 was not set: PATCH .*: RunPod answered 4(00|22).*; correct the "),
    ],
)
async def test_a_refusal_is_told_with_its_remedy_and_without_the_key(
    emulator: Emulator, http: ControlHttp, api: ManagementApi, asked: tuple[str, int], complaint: str
) -> None:
    key, workers = asked
    with pytest.raises(UpstreamFailed, match=f"^own: {complaint}") as failed:
        await managing(emulator.origin, http, api, key).ensure(workers)
    assert key not in failed.value.message
    assert emulator.endpoint.minima == []


@pytest.mark.parametrize("api", SERVED)
@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("error", "answered 500"),
        ("garbage", "is not RunPod: no JSON"),
        ("hang", r"no .*answer.*\((TimeoutError|OSError)"),
    ],
)
async def test_a_platform_that_fails_is_told_and_later_does_as_it_is_told(
    emulator: Emulator, http: ControlHttp, api: ManagementApi, fault: str, complaint: str
) -> None:
    emulator.inject(Faults(management=fault))
    with pytest.raises(UpstreamFailed, match=complaint):
        await managing(emulator.origin, http, api, timeout_seconds=0.1).ensure(2)
    emulator.inject(Faults())
    assert emulator.endpoint.minima == []
    assert await managing(emulator.origin, http, api).ensure(2)


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


def says(document: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, json.dumps(document).encode(), headers)


def has(workers: object) -> Reply:
    """An endpoint's document with this number."""
    return says({"id": "ep", "env": {"TOKEN": "hunter2"}, "workers": {"min": workers, "max": 5, "idleTimeout": 5}})


NONE, THREE, NOTHING = has(0), has(3), says({"id": "ep"})
HTML = Reply(200, b"<html>", {})


@pytest.mark.parametrize(
    ("api", "path", "body"),
    [(V2, "/v2/serverless/ep", b'{"workers": {"min": 3}}'), (V1, "/v1/endpoints/ep", b'{"workersMin": 3}')],
)
async def test_what_is_asked_is_what_runpods_reference_says_and_nothing_else_is_changed(
    api: ManagementApi, path: str, body: bytes
) -> None:
    three = THREE if api is V2 else says({"workersMin": 3})
    odd = Odd([says({}), three], three)
    assert await managing("https://api.runpod.io", odd, api).ensure(3)
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    url = f"https://api.runpod.io{path}"
    assert odd.asked == [("GET", url, headers, b""), ("PATCH", url, headers, body), ("GET", url, headers, b"")]


@pytest.mark.parametrize(
    ("looks", "change"),
    [
        ([NONE, THREE], HTML),
        ([NONE, THREE], Reply(204, b"", {})),
        ([NONE, THREE], NONE),  # its response is no proof
        ([HTML, HTML], THREE),
        ([TimeoutError(), TimeoutError()], NOTHING),
        ([says({}, 403), says({}, 403)], says({})),
        ([says({"workers": []}), has("3")], has(True)),
        ([NONE, has(3.0)], NOTHING),
        ([NONE, has(-1)], NOTHING),
        ([NONE, has(2**40)], NOTHING),
        ([NONE, says({"workersMin": 3})], says({"workersMin": 3})),
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
        (
            [NONE, NONE],
            ConnectionResetError("secret"),
            r"workersMin 3 was not set: .* no .*answer \(ConnectionResetError",
        ),
        ([NONE, NONE], says({"detail": KEY}, 422), r"422 \(\[concealed\]\)"),
        ([NONE, NONE], says({}, 302), "302"),
        ([NONE, NONE], says({}, 403), "give the key Read/Write access"),
        ([NONE, NONE], says({"detail": "gone"}, 410), "remove management_api: v1 and management_url"),
        ([NONE, NONE], says({}, 429, **{"retry-after": "9"}), "try again in 9 s"),
    ],
)
async def test_what_was_not_done_is_told(
    looks: list[Reply | Exception], change: Reply | Exception, complaint: str
) -> None:
    with pytest.raises(UpstreamFailed, match=complaint) as failed:
        await managing("http://x", Odd(looks, change)).ensure(3)
    assert "secret" not in failed.value.message
    assert "hunter2" not in failed.value.message


async def test_a_change_never_waits_for_the_rate_limit_and_sends_nothing_before_it_ends() -> None:
    """The lease under which a change is made would end meanwhile: the next try comes by itself."""
    limits = RateLimits()
    odd = Odd([NONE], says({}, 429, **{"retry-after": "40"}))
    with pytest.raises(UpstreamFailed, match="429; try again in 40 s"):
        await managing("http://x", odd, limits=limits).ensure(3)
    odd.looks, odd.asked = [NONE], []
    with pytest.raises(UpstreamFailed, match="not sent, since the key's rate limit"):
        await managing("http://x", odd, limits=limits).ensure(3)
    assert [method for method, *_ in odd.asked] == ["GET"]
