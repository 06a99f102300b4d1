"""`check` tells who answers and what is missing, over real sockets, and wakes no worker."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator

import pytest
from rich.console import Console

from runpod_emulator import Emulator, EndpointSettings, HostedFaults, HostedModel, HostedSettings
from tests.contract.rest_contract import checked_emulator
from tests.vllm_service.catalog.support import Configured
from tests.vllm_service.runpod.scripted import problem, says, scripted
from vllm_service.__main__ import main
from vllm_service.catalog.load import load, read
from vllm_service.cli import check as command
from vllm_service.cli.check import Report, check
from vllm_service.cli.parser import parse
from vllm_service.errors import ConfigurationError
from vllm_service.testing import ScriptedProvider, whole


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    hosted = [
        HostedSettings(name="keyed", api_key="own-secret", models=(HostedModel(id="small"), HostedModel(id="other"))),
        HostedSettings(name="hanging"),
    ]
    settings = EndpointSettings(api_key="runpod-secret")
    async with checked_emulator(settings, ours=True, hosted=hosted) as (emulator, _):
        yield emulator


async def reports(configured: Configured, providers: dict[str, object], *models: str) -> dict[str, Report]:
    offers = [{"provider": name, "model": model} for name in providers for model in models]
    configured.write(json.dumps({"providers": providers}), json.dumps({"models": {"m": {"offers": offers}}}))
    return {report.provider: report for report in await check(load(configured.settings()), timeout_seconds=5)}


async def test_a_hosted_provider_is_asked_for_its_models(configured: Configured, emulator: Emulator) -> None:
    price = {"input": 1, "output": 2, "as_of": "2026-11-21"}
    keyed = {"base_url": emulator.hosted_url("keyed"), "api_key_env": "OWN_KEY", "prices": {"small": price}}
    report = (await reports(configured, {"keyed": keyed}, "small", "large"))["keyed"]
    assert report.reachable
    assert report.latency_ms is not None
    assert (report.models_found, report.models_missing) == (("small",), ("large",))
    assert (report.prices_known, report.prices_unknown) == (("small",), ("large",))


async def test_what_is_wrong_is_told_apart(configured: Configured, emulator: Emulator) -> None:
    url = emulator.hosted_url("keyed")
    emulator.hosted.providers["hanging"].inject(HostedFaults(down_seconds=1, down_as="reset"))
    found = await reports(
        configured,
        {
            "wrong-key": {"base_url": url, "api_key_env": "RUNPOD_API_KEY"},
            "no-key": {"base_url": url},
            "wrong-url": {"base_url": f"{emulator.origin}/elsewhere/v1"},
            "down": {"base_url": emulator.hosted_url("hanging")},
            "nobody": {"base_url": "http://127.0.0.1:1/v1"},
        },
        "small",
    )
    assert not any(report.reachable for report in found.values())
    problems = {name: report.problem or "" for name, report in found.items()}
    assert "its key was refused" in problems["wrong-key"]
    assert "set api_key_env" in problems["no-key"]
    assert "HTTP 404" in problems["wrong-url"]
    assert "no answer" in problems["down"]
    assert "no answer" in problems["nobody"]
    assert "secret" not in repr(found)


async def test_runpod_is_asked_for_its_health_and_wakes_nobody(configured: Configured, emulator: Emulator) -> None:
    own = {"endpoint_id": "local", "api_url": emulator.origin, "api_key_env": "RUNPOD_API_KEY"}
    priced = {"usd_per_second": 0.00031, "as_of": "2026-11-21"}
    report = (await reports(configured, {"own": own | priced}, "m"))["own"]
    assert report.reachable
    assert report.workers is not None
    assert sum(report.workers.values()) == 0
    assert report.prices_known == ("m",)
    assert not emulator.workers
    assert emulator.endpoint.store.load().queued == 0


@pytest.mark.parametrize(
    ("answer", "warned"),
    [
        (says({"workers": {"max": 3}}), None),
        (says({"workers": {"max": 0}}), "own is scaled down: RunPod lets it have no worker"),
        (says({"workers": {"max": 2}}), "own is scaled down: RunPod lets it have 2 workers instead of 3"),
        (says({"name": "runpod-secret"}), None),
        (problem(403, "runpod-secret lacks access"), "give the key Read Only or Read/Write access"),
        (problem(410, "gone"), "remove management_api: v1"),
    ],
)
async def test_an_endpoint_that_runpod_has_scaled_down_is_told_and_what_the_key_may_not_read_too(
    configured: Configured, emulator: Emulator, answer: bytes, warned: str | None
) -> None:
    async with scripted() as rest:
        rest.answers = [answer]
        own = {"endpoint_id": "local", "api_url": emulator.origin, "api_key_env": "RUNPOD_API_KEY"}
        more = {"management_url": rest.origin, "expected": {"max_workers": 3}}
        found = await reports(configured, {"own": own | more}, "m")
    assert [(method, target) for method, target, _, _ in rest.asked] == [("GET", "/v2/serverless/local")]
    assert found["own"].reachable
    written = io.StringIO()
    console = Console(width=400, file=written)
    command.show(read(configured.settings()), list(found.values()), console)
    shown = written.getvalue()
    assert ("warning: own" in shown) == (warned is not None)
    assert (warned or "") in shown
    assert "runpod-secret" not in shown + repr(found)


@pytest.mark.parametrize("body", ["<html>", "[1, {}]", "null", '{"data": 3}', '{"data": [{"id": 4}, "x"]}'])
async def test_an_answer_that_is_none_breaks_nothing(configured: Configured, body: str) -> None:
    async with ScriptedProvider(whole(body.encode())) as provider:
        report = (await reports(configured, {"odd": {"base_url": provider.url}}, "m"))["odd"]
    assert [request.target for request in provider.requests] == ["/v1/models"]
    assert report.models_found == ()
    assert report.reachable == (body.endswith("]}") or body.startswith("["))


def test_nobody_reachable_is_a_failure(configured: Configured, capsys: pytest.CaptureFixture[str]) -> None:
    configured.write(
        "providers: {mine: {base_url: 'http://127.0.0.1:1/v1'}}",
        "models: {m: {offers: [{provider: mine, model: small}]}}",
    )
    assert command.run(parse(["check", "--json"]), configured.environment()) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["models"] == ["m"]
    assert document["providers"][0]["reachable"] is False
    assert len(document["warnings"]) == 1
    assert command.run(parse(["check"]), configured.environment()) == 1
    assert "no answer" in capsys.readouterr().out
    assert command.run(parse(["check", "--offline"]), configured.environment()) == 0


def test_a_strategy_that_does_not_exist_is_found_without_a_request(configured: Configured) -> None:
    configured.write(
        "providers: {mine: {base_url: 'http://127.0.0.1:1/v1'}}",
        "models: {m: {offers: [{provider: mine, model: small}], strategy: GUESS}}",
    )
    with pytest.raises(ConfigurationError, match=r"models\.yaml:1: models\.m\.strategy: 'GUESS' is not known"):
        command.run(parse(["check", "--offline"]), configured.environment())


def test_wrong_arguments_exit_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fly"], ["check", "--fast"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "check" in capsys.readouterr().err
