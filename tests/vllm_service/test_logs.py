"""The log's two forms, and the access log: every request once, with no key and no prompt."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import command, configure, gateway, variables_of
from tests.vllm_service.api.service import REQUEST
from tests.vllm_service.canary import Canaries
from vllm_service.domain.requests import Outcome
from vllm_service.logs import FIELDS, JsonLines, TextLines
from vllm_service.storage.ledger.rows import logged


def line(form: logging.Formatter, message: str = "request", /, *arguments: object, **more: Any) -> str:
    record = logging.LogRecord("some.logger", logging.INFO, "file", 1, message, arguments, more.pop("exc_info", None))
    record.__dict__.update(more)
    return form.format(record)


def test_a_line_of_json_holds_the_fields_of_the_row() -> None:
    said = json.loads(line(JsonLines(), fields=logged(REQUEST)))
    assert (said["level"], said["logger"], said["message"]) == ("INFO", "some.logger", "request")
    assert (said["request_id"], said["model"], said["outcome"], said["status"]) == ("req_1", "llama", "completed", 200)
    assert (said["prompt_tokens"], said["completion_tokens"], said["estimated"]) == (10, 20, False)
    assert said["cost_usd"] == 0.000007
    assert said["error_code"] is None


def test_a_line_of_text_leaves_out_what_is_not_known_and_quotes_spaces() -> None:
    row = replace(REQUEST, usage=None, cost_picousd=None, route_reason="in order")
    said = line(TextLines(), **{FIELDS: logged(row)})
    assert " INFO some.logger: request request_id=req_1 " in said
    assert 'route_reason="in order"' in said
    assert "prompt_tokens" not in said
    assert "None" not in said


def test_a_value_cannot_forge_a_line() -> None:
    row = replace(REQUEST, provider='a"\nINFO forged', route_reason="x\r\ny")
    for form in (JsonLines(), TextLines()):
        assert len(line(form, **{FIELDS: logged(row)}).splitlines()) == 1


def test_other_messages_and_tracebacks_take_the_same_form() -> None:
    try:
        int("no")
    except ValueError:
        said = json.loads(line(JsonLines(), "it is %s", "so", exc_info=sys.exc_info()))
    assert said["message"] == "it is so"
    assert said["exception"].rpartition("\n")[2].startswith("ValueError: ")
    assert line(TextLines(), "it is %s", "so").endswith("some.logger: it is so")


@pytest.mark.parametrize("form", ["json", "text"])
async def test_every_request_with_a_key_leaves_one_line_and_no_secret(tmp_path: Path, form: str) -> None:
    canaries = Canaries()
    provider = HostedSettings(name="hosted", api_key=canaries.provider_key, models=(HostedModel(id="m"),))
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        entry = {"base_url": emulator.hosted_url("hosted"), "api_key_env": "HOSTED_KEY"}
        configure(tmp_path, {"hosted": entry}, {"m": {"offers": [{"provider": "hosted", "model": "m"}]}})
        key = await command("keys", "create", "acme", "--tier", "enterprise", **variables_of(tmp_path))
        told = {"HOSTED_KEY": canaries.provider_key, "REQUIRE_KEYS": "true", "ACCESS_LOG": "true", "LOG_FORMAT": form}
        async with gateway(tmp_path, **told) as running:
            said = {"model": "m", "messages": [{"role": "user", "content": canaries.prompt}]}
            async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
                own = {"authorization": f"Bearer {key}"}
                calls = [(said, own), (said | {"stream": True}, own), (said, {}), (said | {"model": "no"}, own)]
                answers = [await client.post("/chat/completions", json=body, headers=held) for body, held in calls]
            await running.stop()
    log = (tmp_path / "log").read_text()
    lines = [one for one in log.splitlines() if "vllm_service.access" in one]
    assert [answer.status_code for answer in answers] == [200, 200, 401, 404]
    del answers[2]  # strangers are counted and leave no line
    assert len(lines) == len(answers)
    for one, answer in zip(lines, answers, strict=True):
        assert answer.headers["x-request-id"] in one
        assert str(answer.status_code) in one
    if form == "json":
        rows = [json.loads(one) for one in lines]
        assert [row["outcome"] for row in rows] == [Outcome.COMPLETED] * 2 + [Outcome.REJECTED]
        assert [row["stream"] for row in rows] == [False, True, False]
        assert all(isinstance(json.loads(one), dict) for one in log.splitlines())
    Canaries(key=key, provider_key=canaries.provider_key, prompt=canaries.prompt).assert_unseen(log)


async def test_it_is_off_unless_it_is_asked_for(tmp_path: Path) -> None:
    configure(
        tmp_path, {"p": {"base_url": "http://127.0.0.1:9/v1"}}, {"m": {"offers": [{"provider": "p", "model": "m"}]}}
    )
    async with gateway(tmp_path) as running, httpx.AsyncClient(trust_env=False) as client:
        await asyncio.gather(*(client.post(f"{running.url}/chat/completions", json={"model": "x"}) for _ in range(3)))
        await running.stop()
    assert "vllm_service.access" not in (tmp_path / "log").read_text()
