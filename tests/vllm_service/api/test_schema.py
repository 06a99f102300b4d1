"""The published document is kept: schemathesis finds no 500 and no breach, and everything is described in it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.vllm_service.api.schema_run import assert_conforms, operations
from tests.vllm_service.api.service import KEY, REQUEST, OneKey, dependencies, served
from vllm_service.api.openapi import ENDPOINTS


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A base URL; the gateway's own tests call the same functions with theirs."""
    service = dependencies(keys=OneKey())
    service.measurements.record(REQUEST)
    with served(service) as url:
        yield url


def test_every_operation_keeps_the_document(address: str) -> None:
    """Without the raw POST endpoints, which are not served here."""
    chosen = operations(address, KEY, lambda method, _: method == "GET")
    assert len(chosen) == 16
    made = {operation.path: assert_conforms(operation, KEY) for operation in chosen}
    assert min(made.values()) >= 1
    assert made["/v1/models/{model}"] >= 20


def test_a_breach_would_be_found() -> None:
    """The same run fails against an answer that the document does not have."""
    with served(dependencies(catalog=lambda: None)) as broken:  # type: ignore[arg-type, return-value]
        (operation,) = operations(broken, None, lambda _, path: path == "/models")
        with pytest.raises(BaseException, match="500"):
            assert_conforms(operation, None)


def test_the_raw_endpoints_are_described_with_security_examples_and_errors(address: str) -> None:
    document = httpx.get(f"{address}/openapi.json").json()
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path]["post"]
        assert operation["security"] == [{"Key": []}]
        assert operation["requestBody"]["content"]["application/json"]["example"]["model"]
        assert {"200", "401", "429", "4XX", "5XX"} <= set(operation["responses"])
    assert document["components"]["securitySchemes"]["Key"]["scheme"] == "bearer"


def test_every_route_but_health_asks_for_the_key(address: str) -> None:
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    without = {path for path, methods in paths.items() for one in methods.values() if "security" not in one}
    probes = {"/health", "/health/live", "/health/ready"}
    assert without == probes | {f"/v1{path}" for path in probes}
