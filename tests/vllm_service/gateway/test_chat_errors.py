"""Errors of providers and our own, as the official client raises them, and what they cost."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.vllm_service.gateway.asking import MESSAGES, answers, posted
from tests.vllm_service.gateway.running import catalog_of, gateway_to, running
from vllm_service.domain.requests import Outcome
from vllm_service.testing import ScriptedProvider, events, refused, whole


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (400, {"error": {"message": "bad tool", "param": "tools"}}, openai.BadRequestError, "INVALID_REQUEST_400"),
        (422, {"error": {"message": "no"}}, openai.UnprocessableEntityError, "UPSTREAM_422"),
        (400, {"error": {"code": "context_length_exceeded"}}, openai.BadRequestError, "context_length_exceeded"),
        (413, b"prompt too long", openai.APIStatusError, "BODY_TOO_LARGE_413"),
        (413, {"error": {"code": "rate_limit_exceeded"}}, openai.RateLimitError, "RATE_LIMIT_429"),
        (498, b"", openai.RateLimitError, "RATE_LIMIT_429"),
        (401, {"error": {"message": "Incorrect key sk-1"}}, openai.InternalServerError, "UPSTREAM_502"),
        (404, {"error": {"message": "no model"}}, openai.NotFoundError, "NOT_FOUND_404"),
        (429, {"error": {"message": "slow down"}}, openai.RateLimitError, "RATE_LIMIT_429"),
        (500, b"<html>", openai.InternalServerError, "UPSTREAM_502"),
        (503, {"error": "loading"}, openai.InternalServerError, "MODEL_503"),
        (504, b"", openai.InternalServerError, "GATEWAY_TIMEOUT_504"),
        (200, b"<html>not an answer</html>", openai.InternalServerError, "UPSTREAM_502"),
    ],
)  # fmt: skip
async def test_errors_of_providers_raise_the_right_class(
    status: int, body: Any, kind: type[openai.APIStatusError], code: str
) -> None:
    async with gateway_to(ScriptedProvider(whole(body, status, {"retry-after": "3"}))) as gateway:
        with pytest.raises(kind) as raised:
            await gateway.client.chat.completions.create(model="small", messages=MESSAGES)
        row = await gateway.books.row()
    assert raised.value.code == code
    assert "sk-1" not in str(raised.value)
    assert (row.outcome, row.error_code, row.status) == (Outcome.FAILED, code, raised.value.status_code)
    # It was sent, so the request counts; an answer from behind a proxy that gave up may have been paid for.
    prompt = row.usage.prompt_tokens if row.usage else 0
    assert (prompt > 0) is (status == 504)
    assert gateway.books.shares[0].ended == [(prompt, row.cost_picousd or 0)]
    if status == 429:
        assert raised.value.response.headers["retry-after"] == "3"


async def test_our_own_errors_cost_nothing_and_leave_a_row() -> None:
    upstream = ScriptedProvider(answers)
    async with gateway_to(upstream) as gateway:
        create = gateway.client.chat.completions.create
        with pytest.raises(openai.NotFoundError):
            await create(model="unknown", messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError):
            await gateway.client.with_options(api_key="sk-wrong").chat.completions.create(
                model="small", messages=MESSAGES
            )
        with pytest.raises(openai.BadRequestError) as raised:
            await create(model="small", messages=MESSAGES, temperature="hot")  # type: ignore[call-overload]
        assert raised.value.param == "temperature"
        gateway.books.is_full = True
        with pytest.raises(openai.RateLimitError) as limited:
            await create(model="small", messages=MESSAGES)
        assert limited.value.response.headers["retry-after"] == "8"
        rows = [await gateway.books.row(number) for number in range(3)]
        assert gateway.server.status().refusals == {"UNAUTHORIZED_401": 1}  # counted, without a row
    assert [row.outcome for row in rows] == [Outcome.REJECTED] * 3
    assert [row.status for row in rows] == [404, 400, 429]
    assert upstream.requests == []
    # What is not valid counts in the key's minute all the same.
    assert [(share.tokens, share.ended) for share in gateway.books.shares] == [(0, [None])] * 2


async def test_the_next_provider_answers_when_one_cannot() -> None:
    late = events({"error": {"message": "overloaded", "code": 529}})
    first, second, third = ScriptedProvider(refused(503)), ScriptedProvider(late), ScriptedProvider(answers)
    async with (
        first, second, third,
        running(catalog_of("http://127.0.0.1:9/v1", first.url, second.url, third.url)) as gateway,
    ):  # fmt: skip
        stream = await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        text = "".join([piece.choices[0].delta.content or "" async for piece in stream if piece.choices])
        row = await gateway.books.row()
    assert text == "Hello"
    assert (row.provider, row.attempts, row.outcome) == ("provider-4", 4, Outcome.COMPLETED)


async def test_the_callers_own_mistake_is_not_tried_elsewhere() -> None:
    first, second = ScriptedProvider(refused(400)), ScriptedProvider(answers)
    async with first, second, running(catalog_of(first.url, second.url)) as gateway:
        assert (await posted(gateway, {"model": "small"}))[0] == 400
    assert second.requests == []


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("x-route-provider", "nobody", "It has: provider-1"),
        ("x-route-tags", "private", "Tags of its providers: none is configured"),
        ("x-route-tags", "region:eu", "Regions of its providers: none is configured"),
        ("x-max-cost-usd", "0.000000001", "raise the cap"),
    ],
)
async def test_headers_that_leave_no_provider_are_the_callers_mistake(name: str, value: str, says: str) -> None:
    upstream = ScriptedProvider(answers)
    async with gateway_to(upstream, router_costs=True) as gateway:
        with pytest.raises(openai.BadRequestError, match=says) as raised:
            await gateway.client.chat.completions.create(model="small", messages=MESSAGES, extra_headers={name: value})
        row = await gateway.books.row()
    assert (raised.value.param, raised.value.code) == (name, "INVALID_REQUEST_400")
    assert (row.outcome, row.status, row.error_code) == (Outcome.REJECTED, 400, "INVALID_REQUEST_400")
    assert (upstream.requests, gateway.books.shares[0].ended) == ([], [None])
