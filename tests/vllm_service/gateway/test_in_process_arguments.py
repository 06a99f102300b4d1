"""Odd arguments of requests from within: refused, named, and nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm_service.gateway.running import SECRET
from tests.vllm_service.gateway.test_in_process import KEY, asking, gateway_to
from vllm_service.errors import BodyTooLarge, InvalidRequest, Unauthorized
from vllm_service.gateway.operations import CHAT
from vllm_service.testing import says


def cyclic() -> dict[str, Any]:
    body = asking()
    body["self"] = body
    return body


def nested() -> Any:
    inner: Any = []
    for _ in range(100_000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("options", "param"),
    [
        pytest.param({"body": {**asking(), "stop": {"a"}}}, "body", id="a set"),
        pytest.param({"body": {**asking(), "stop": b"a"}}, "body", id="bytes"),
        pytest.param({"body": {**asking(), "temperature": float("nan")}}, "body", id="NaN"),
        pytest.param({"body": cyclic()}, "body", id="a cycle"),
        pytest.param({"body": {**asking(), "stop": nested()}}, "body", id="nested without end"),
        pytest.param({"body": [1]}, "body", id="a list"),
        pytest.param({"body": asking("cut \ud83d")}, "body", id="half an emoji in a prompt"),
        pytest.param({"body": asking(), "headers": {"x-request-id": "東"}}, "headers", id="a header beyond Latin-1"),
        pytest.param({"body": asking(), "headers": {"x-request-id": 7}}, "headers", id="a header that is a number"),
        pytest.param({"body": asking(), "labels": ["a"]}, "labels", id="labels that are a list"),
        pytest.param({"body": asking(), "labels": {"a": "\ud83d"}}, "labels.a", id="half an emoji in a label"),
    ],
)
async def test_odd_arguments_are_refused_and_named(options: dict[str, Any], param: str) -> None:
    body = options["body"]
    rest = {name: value for name, value in options.items() if name != "body"}
    async with gateway_to(says("Hello")) as (gateway, provider):
        with pytest.raises(InvalidRequest) as refusal:
            await gateway.gateway.complete(KEY, CHAT, body, **rest)
        with pytest.raises(InvalidRequest):
            gateway.gateway.stream(KEY, CHAT, body, **rest)
        assert provider.requests == []
    assert refusal.value.param == param


async def test_a_body_beyond_the_limit_is_refused() -> None:
    async with gateway_to(says("Hello")) as (gateway, provider):
        with pytest.raises(BodyTooLarge):
            await gateway.gateway.complete(KEY, CHAT, asking("x" * 20_000_001))
        assert provider.requests == []


@pytest.mark.parametrize("key", [None, "vs_secret"])
async def test_what_is_no_key_is_let_in_nowhere(key: Any) -> None:
    async with gateway_to(says("Hello")) as (gateway, provider):
        with pytest.raises(Unauthorized):
            await gateway.gateway.complete(key, CHAT, asking(), headers={"authorization": f"Bearer {SECRET}"})
        with pytest.raises(Unauthorized):
            await anext(gateway.gateway.stream(key, CHAT, asking()))
        assert provider.requests == []
