"""`explain` by the configuration: the router of the gateway, with nothing learned, and nobody asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.gateway import configure
from tests.e2e.process import run

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    providers = {
        "own": {"endpoint_id": "ep", "api_url": NOBODY, "usd_per_second": 0.00031, "as_of": "2026-11-21"},
        "hosted": {"base_url": f"{NOBODY}/v1", "prices": {"m": {"input": 1, "output": 2, "as_of": "2026-11-21"}}},
    }
    offers = [{"provider": "own", "model": "m"}, {"provider": "hosted", "model": "m"}]
    configure(tmp_path, providers, {"chat": {"offers": offers, "aliases": ["gpt-3.5-turbo"]}})
    return tmp_path


async def explained(directory: Path, *arguments: str) -> tuple[int, str]:
    ended = await run("-m", "vllm_service", "explain", *arguments, CONFIG_DIR=str(directory))
    return ended.code, ended.stdout or ended.stderr


async def test_a_cold_endpoint_is_not_asked_first_and_a_warm_one_is(directory: Path) -> None:
    code, cold = await explained(directory, "--model", "gpt-3.5-turbo")
    assert code == 0
    assert "1. hosted (m)" in cold
    assert " USD expected" in cold
    _, warm = await explained(directory, "--model", "chat", "--warm", "1")
    assert "1. own (m)" in warm
    assert warm.startswith("why: ")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--model", "nobody"), 1, "There is no model 'nobody'"),
        (("--model", "chat", "--cap-usd", "0.000000001"), 1, "cap"),
        (("--model", "chat", "--cap-usd", "much"), 2, "not an amount in dollars"),
        (("--model", "chat", "--strategy", "GUESS"), 2, "'GUESS' is not known; expected one of COST, LATENCY"),
        (("--model", "chat", "--max-tokens", "0"), 2, "a whole number of at least 1"),
        (("--model", "chat", "--warm", "-1"), 2, "a whole number of at least 0"),
        ((), 2, "--model"),
    ],
)
async def test_a_mistake_is_said_as_a_caller_would_hear_it(
    directory: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended, output = await explained(directory, *arguments)
    assert ended == code
    assert said in output
