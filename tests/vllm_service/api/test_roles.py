"""Which role gets which answer from which path, and which members of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.vllm_service.api.service import (
    CATALOG,
    REQUEST,
    KeyPerRole,
    dependencies,
    headers_of,
    served,
    serving,
    statuses,
)
from vllm_service.api.dependencies import Dependencies
from vllm_service.api.fastapi_app import make_metrics_app
from vllm_service.domain.roles import Role
from vllm_service.domain.status import BreakersState, Circuit, ProviderCircuit

#: The least role that gets an answer; None: everybody.
LEAST = {
    "/": None,
    "/openapi.json": None,
    "/health": None,
    "/health/live": None,
    "/health/ready": None,
    "/models": Role.CALLER,
    "/models/llama": Role.CALLER,
    "/performance": Role.VIEWER,
    "/performance/latency": Role.VIEWER,
    "/metrics": Role.VIEWER,
}
WITHOUT_V1 = ("/", "/openapi.json")
ROLES = [None, *Role]


def service() -> Dependencies:
    known = statuses(BreakersState({"hosted": ProviderCircuit(Circuit.CLOSED, failures=0, openings=0)}))
    made = dependencies(known, keys=KeyPerRole(), started_at=0.0)
    made.measurements.record(REQUEST)
    return made


def test_every_path_answers_the_roles_of_the_table_and_no_other() -> None:
    with served(service()) as address:
        document = httpx.get(f"{address}/openapi.json").json()["paths"]
        listed = {path.replace("{model}", "llama") for path, methods in document.items() if "get" in methods}
        paths = {*LEAST, *(f"/v1{path}" for path in LEAST if path not in WITHOUT_V1)}
        assert listed | set(WITHOUT_V1) == paths, "a path is missing in the table, or is gone"
        for path in paths:
            least = LEAST[path.removeprefix("/v1") or "/"]
            for role in ROLES:
                status = httpx.get(f"{address}{path}", headers=headers_of(role)).status_code
                assert (path, role, status) == (path, role, expected(least, role))


def expected(least: Role | None, role: Role | None) -> int:
    if least is None:
        return 200
    if role is None:
        return 401
    return 200 if list(Role).index(role) >= list(Role).index(least) else 403


@pytest.mark.parametrize("path", ["/performance", "/v1/metrics"])
def test_a_refusal_says_which_role_is_needed_and_how_to_get_it(path: str) -> None:
    with served(service()) as address:
        error = httpx.get(address + path, headers=headers_of(Role.CALLER)).json()["error"]
    assert (error["code"], error["type"]) == ("FORBIDDEN_403", "permission_error")
    assert error["message"].startswith("This key's role is caller; this path needs viewer.")
    assert "`python -m vllm_service keys create ORGANISATION --role viewer`" in error["message"]
    assert error["details"] == {"role": "caller", "needs": "viewer"}


def seen(path: str, role: Role | None, made: Dependencies) -> Any:
    with served(made) as address:
        return httpx.get(address + path, headers=headers_of(role)).json()


@pytest.mark.parametrize("role", [None, Role.CALLER])
def test_health_shows_strangers_and_callers_no_more_than_its_status(role: Role | None) -> None:
    health = seen("/health", role, service())
    known = {name: value for name, value in health.items() if value not in (None, [], {})}
    assert list(known) == ["status", "warmup_completed", "last_health_check"]
    whole = seen("/health", Role.ADMIN, service())
    assert list(health) == list(whole), "the fields are always the same"


def test_health_shows_a_viewer_everything_but_addresses() -> None:
    health = seen("/health", Role.VIEWER, service())
    assert health["circuit_breakers"]["hosted"]["status"] == "closed"
    assert health["memory_usage"]["allocated_gb"] > 0
    assert health["backends"] == {"chat": [], "text2sql": []}
    assert health["model_endpoints"]["chat"] == {"status": "available", "endpoint": None, "response_time": 0.1}
    whole = seen("/health", Role.OPERATOR, service())
    assert whole["backends"]["text2sql"] == ["https://api.runpod.test/v2/abc123/openai/v1"]
    assert whole["model_endpoints"]["chat"]["endpoint"] == "https://api.hosted.test/v1"


def test_a_caller_sees_models_without_prices_offers_and_measurements() -> None:
    mine = seen("/v1/models/llama", Role.CALLER, service())
    whole = seen("/v1/models/llama", Role.VIEWER, service())
    unseen = {
        "cost_per_1k_tokens": None,
        "cost_basis": None,
        "usd_per_million_tokens": {"input": None, "cached_input": None, "output": None},
        "offers": [],
        "performance": whole["performance"] | {"avg_latency_ms": None, "tokens_per_second": None},
    }
    assert mine == whole | unseen
    assert whole["usd_per_million_tokens"]["input"] == 0.1
    assert whole["performance"]["avg_latency_ms"] == 100.0
    assert mine["providers"] == ["hosted", "runpod"]
    assert seen("/v1/models", Role.CALLER, service())["data"][0] == mine


def test_where_no_key_is_needed_all_is_shown() -> None:
    with served(dependencies()) as address:
        assert httpx.get(f"{address}/metrics").status_code == 200
        assert httpx.get(f"{address}/performance").status_code == 200
        assert httpx.get(f"{address}/health").json()["backends"]["chat"]
        assert httpx.get(f"{address}/v1/models/llama").json()["offers"]


def test_a_port_for_metrics_serves_them_without_a_key_and_nothing_else() -> None:
    with serving(make_metrics_app(service())) as address:
        answer = httpx.get(f"{address}/metrics")
        others = [
            httpx.get(f"{address}{path}") for path in ("/", "/health", "/models", "/openapi.json", "/performance")
        ]
    assert answer.status_code == 200
    assert "vllm_requests_total" in answer.text
    assert [other.status_code for other in others] == [404] * 5
    assert {other.json()["error"]["message"] for other in others} == {"There is nothing at this path."}
    assert CATALOG.providers["hosted"].base_url not in answer.text


def test_the_page_can_be_framed_by_none_and_sends_a_key_nowhere_else() -> None:
    with served(service()) as address:
        headers = httpx.get(f"{address}/").headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    closed = ("default-src", "base-uri", "form-action", "frame-ancestors")
    assert [policy[name] for name in closed] == ["'none'"] * 4
    assert policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert (headers["x-frame-options"], headers["referrer-policy"]) == ("DENY", "no-referrer")
