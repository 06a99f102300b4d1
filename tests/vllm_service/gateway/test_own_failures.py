"""A fault of the gateway itself: one answer, one row, no reservation left, and nothing of the prompt in the log."""

from __future__ import annotations

import logging
from typing import Any

import openai
import pytest

from tests.vllm_service.configured_order import ConfiguredOrder
from tests.vllm_service.gateway.asking import MESSAGES, answers
from tests.vllm_service.gateway.running import Running, gateway_to
from tests.vllm_service.upstream import ScriptedUpstream
from vllm_service.domain.requests import Outcome
from vllm_service.gateway.served_models import Configured

CANARY = "what-the-prompt-said"


class FaultyRouter(ConfiguredOrder):
    """Fails in one of its methods, with a text that no log may hold."""

    fails_in = ""

    def plan(self, *arguments: Any) -> Any:
        self._maybe_fail("plan")
        return super().plan(*arguments)

    def finished(self, *arguments: Any) -> None:
        self._maybe_fail("finished")

    def _maybe_fail(self, where: str) -> None:
        if where == self.fails_in:
            raise RuntimeError(CANARY)


def break_router(gateway: Running, fails_in: str) -> None:
    catalog = gateway.gateway.configured.catalog
    router = FaultyRouter(catalog)
    router.fails_in = fails_in
    gateway.gateway.configured = Configured(catalog, router)


@pytest.mark.parametrize("stream", [False, True])
async def test_before_the_answer_the_caller_gets_a_500_and_the_request_its_row(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with gateway_to(ScriptedUpstream(answers)) as gateway:
            break_router(gateway, "plan")
            with pytest.raises(openai.InternalServerError) as raised:
                await gateway.client.chat.completions.create(model="small", messages=MESSAGES, stream=stream)
            row = await gateway.books.row()
    assert raised.value.code == "INTERNAL_500"
    assert (row.outcome, row.status, row.error_code) == (Outcome.FAILED, 500, "INTERNAL_500")
    assert raised.value.request_id == row.request_id
    assert [share.ended for share in gateway.books.shares] == [[None]]
    assert row.request_id in caplog.text
    assert "RuntimeError at " in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_after_the_answer_the_caller_notices_nothing_and_the_next_request_is_answered(stream: bool) -> None:
    async with gateway_to(ScriptedUpstream(answers)) as gateway:
        break_router(gateway, "finished")
        body = {"model": "small", "messages": MESSAGES, "stream": stream}
        texts = [(await gateway.http.post(f"{gateway.url}/chat/completions", json=body)).text for _ in range(2)]
        rows = [await gateway.books.row(number) for number in range(2)]
    assert all("Hel" in text for text in texts)
    assert len(gateway.books.rows) == 2
    assert [row.usage is not None for row in rows] == [True, True]
    assert [len(share.ended) for share in gateway.books.shares] == [1, 1]
