"""Every error has the one format and a request id; what nobody expected says nothing else."""

from __future__ import annotations

import httpx
import pytest

from tests.vllm_service.api.service import KEY, OneKey, dependencies, served, serving
from vllm_service.api.fastapi_app import make_app
from vllm_service.catalog.model import Catalog
from vllm_service.errors import RateLimited

FIELDS = ["type", "code", "message", "param", "details", "request_id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "NOT_FOUND_404"),
        ("GET", "/models/", 404, "NOT_FOUND_404"),
        ("GET", "/docs", 404, "NOT_FOUND_404"),
        ("GET", "/v1/models/nobody", 404, "NOT_FOUND_404"),
        ("POST", "/v1/models", 405, "METHOD_NOT_ALLOWED_405"),
        ("TRACE", "/health", 405, "METHOD_NOT_ALLOWED_405"),
    ],
)
def test_an_error_has_the_one_format(method: str, path: str, status: int, code: str) -> None:
    with served(dependencies()) as address:
        answer = httpx.request(method, address + path, headers={"X-Request-ID": "mine-1"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], list(error)) == (status, code, FIELDS)
    assert error["request_id"] == answer.headers["x-request-id"] == "mine-1"
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("sent", [b"", b"x" * 129, b"a b", "ünicode".encode(), b'";drop'])
def test_a_request_id_that_could_do_harm_is_replaced(sent: bytes) -> None:
    with served(dependencies()) as address:
        answer = httpx.get(f"{address}/health/live", headers={b"X-Request-ID": sent})
    assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("path", ["/models", "/v1/models/llama", "/performance", "/v1/performance/latency"])
@pytest.mark.parametrize("header", [None, "Bearer sk-wrong", "Basic abc", "Bearer", f"Token {KEY}"])
def test_without_a_valid_key_there_is_no_answer(path: str, header: str | None) -> None:
    with served(dependencies(keys=OneKey())) as address:
        answer = httpx.get(address + path, headers={} if header is None else {"Authorization": header})
        assert httpx.get(address + path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED_401")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/openapi.json", "/"])
def test_probes_and_what_holds_nothing_of_the_deployment_need_no_key(path: str) -> None:
    with served(dependencies(keys=OneKey())) as address:
        assert httpx.get(address + path).status_code == 200


def test_the_unexpected_is_a_500_with_an_id_and_nothing_else() -> None:
    def broken() -> Catalog:
        raise RuntimeError("the password is 1234")

    with served(dependencies(catalog=broken)) as address:
        answer = httpx.get(f"{address}/v1/models")
        assert httpx.get(f"{address}/health/live").status_code == 200
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], list(error)) == (500, "INTERNAL_500", FIELDS)
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "1234" not in answer.text
    assert "Traceback" not in answer.text


def test_errors_of_a_route_keep_their_headers_and_invalid_parameters_name_the_field() -> None:
    app = make_app(dependencies())

    @app.get("/limited")
    async def limited() -> None:
        raise RateLimited("Enough for now.", retry_after_seconds=1.2)

    @app.get("/typed/{number}")
    async def typed(number: int) -> int:
        return number

    with serving(app) as address:
        refused = httpx.get(f"{address}/limited")
        wrong = httpx.get(f"{address}/typed/tell-nobody")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "number")
    assert "tell-nobody" not in wrong.text
