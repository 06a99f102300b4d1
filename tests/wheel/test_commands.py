"""The console script in an environment with the extra `client` alone, and in one without any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.wheel.installed import Installed
from vllm_service.cli.exit_codes import MISSING_EXTRA, WRONG_ARGUMENTS
from vllm_service.cli.parser import COMMANDS
from vllm_service.version import __version__

DEMO_MODEL = Path(__file__).resolve().parents[2] / "demo_model"
BILL: dict[str, list[object]] = {"records": []}
PROVIDERS = """
providers:
  own: {endpoint_id: ep, api_url: 'http://127.0.0.1:9', usd_per_second: 0.00031, as_of: 2026-11-21}
  hosted: {preset: groq, api_key_env: GROQ_API_KEY}
"""
MODELS = "models: {m: {offers: [{provider: own, model: org/m}, {provider: hosted, model: llama-3.1-8b-instant}]}}\n"
# verb -> arguments, and what stdout says.
WORKING = {
    "advise": ("--trace bursty --scenario 8b-4090 --idle 5 --most 200", "The best first"),
    "check": ("--offline", "Models: m"),
    "compare": ("--model m", "llama-3.1-8b-instant"),
    "completion": ("bash", "complete "),
    "deploy": ("plan --name m --image you/worker:1 --model model", "It needs"),
    "examples": ("list", "8b-4090-gpt4omini"),
    "explain": ("--model m --warm 1", "why: "),
    "keys": ("create acme", "vs_"),
    "ledger": ("export", "request_id"),
    "reconcile": ("--bill bill.json --json", '"days"'),
    "simulate": ("--trace diurnal --scenario 8b-4090 --policies all_hosted --json", '"policy": "all_hosted"'),
}
MISSING = {
    "deploy plan --name m --image you/worker:1 --model org/model": "service",
    "serve": "service",
    "ledger export --format parquet --output ledger.parquet": "service",
    "keys list --database-url postgresql://nobody@127.0.0.1:9/none": "service",
    "simulate --trace bursty --scenario 8b-4090 --plot run.png": "plots",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "providers.yaml").write_text(PROVIDERS)
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "bill.json").write_text(json.dumps(BILL))
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    return tmp_path


async def _make_database(installed: Installed, directory: Path) -> None:
    """Makes the database, which commands that only read refuse to make."""
    made = await installed.run(directory, "vllm-service", "keys", "create", "somebody", DATA_DIR=str(directory))
    assert made.code == 0, made.stderr


def test_every_command_is_tried_here() -> None:
    assert {*WORKING, *(line.split()[0] for line in MISSING)} == COMMANDS.keys()


@pytest.mark.parametrize("verb", WORKING)
async def test_the_clients_extra_is_enough(verb: str, client_alone: Installed, directory: Path) -> None:
    arguments, expected = WORKING[verb]
    variables = {"DATA_DIR": str(directory), "GROQ_API_KEY": "a-key"}
    if verb in {"ledger", "reconcile"}:
        await _make_database(client_alone, directory)
    ended = await client_alone.run(directory, "vllm-service", verb, *arguments.split(), **variables)
    assert (ended.code, ended.stderr if ended.code else "") == (0, "")
    assert expected in ended.stdout


async def test_compare_knows_prices_without_another_extra(client_alone: Installed, directory: Path) -> None:
    ended = await client_alone.run(directory, "vllm-service", "compare", "--json", GROQ_API_KEY="a-key")
    hosted = next(row for row in ended.document["providers"] if row["provider"] == "hosted")
    assert hosted["monthly_usd"] > 0


@pytest.mark.parametrize("line", MISSING)
async def test_a_command_that_needs_another_extra_names_it(line: str, client_alone: Installed, directory: Path) -> None:
    await _make_database(client_alone, directory)
    ended = await client_alone.run(directory, "vllm-service", *line.split(), DATA_DIR=str(directory))
    assert (ended.code, ended.stdout) == (MISSING_EXTRA, "")
    assert ended.stderr.count("\n") == 1
    assert f"needs the {MISSING[line]} extra: pip install 'vllm-service[{MISSING[line]}]'" in ended.stderr


@pytest.mark.parametrize("verb", [verb for verb in WORKING if verb != "examples"])
async def test_without_any_extra_a_command_names_the_clients(verb: str, no_extra: Installed, directory: Path) -> None:
    ended = await no_extra.run(directory, "vllm-service", verb, *WORKING[verb][0].split())
    assert (ended.code, ended.stdout) == (MISSING_EXTRA, "")
    assert ended.stderr.startswith(f"vllm-service {verb} needs the client extra: pip install 'vllm-service[client]'")


@pytest.mark.parametrize("arguments", ["--help", "--version", "examples list", "examples show bursty"])
async def test_without_any_extra_the_rest_works(arguments: str, no_extra: Installed, tmp_path: Path) -> None:
    ended = await no_extra.run(tmp_path, "sh", "-c", f"vllm-service {arguments} | wc -c")
    assert (ended.code, ended.stderr) == (0, "")
    assert int(ended.stdout) > 0


async def test_the_console_script_is_the_module(no_extra: Installed, tmp_path: Path) -> None:
    script = await no_extra.run(tmp_path, "vllm-service", "--version")
    module = await no_extra.run(tmp_path, "python", "-m", "vllm_service", "--version")
    assert script.stdout == module.stdout == f"{__version__}\n"
    helped = await no_extra.run(tmp_path, "python", "-m", "vllm_service", "--help")
    assert helped.stdout.startswith("usage: python -m vllm_service ")
    assert all(f"    {verb}" in helped.stdout for verb in COMMANDS)


@pytest.mark.parametrize("arguments", [(), ("fly",), ("check", "--fast"), ("examples",)])
async def test_wrong_arguments_exit_with_two(
    arguments: tuple[str, ...], client_alone: Installed, tmp_path: Path
) -> None:
    assert (await client_alone.run(tmp_path, "vllm-service", *arguments)).code == WRONG_ARGUMENTS


async def test_importing_the_package_imports_nothing_else(client_alone: Installed, tmp_path: Path) -> None:
    """Not even what is installed; a name that is used is loaded then."""
    code = (
        "import sys, vllm_service\n"
        "print(sorted(name for name in sys.modules if name.startswith('vllm_service')))\n"
        "print([name for name, module in sys.modules.items() if 'site-packages' in str(getattr(module, '__file__', ''))"
        " and not name.startswith('vllm_service')])\n"
        "print(vllm_service.RunPodVLLMService.__name__)\n"
    )
    ended = await client_alone.run(tmp_path, "python", "-c", code)
    assert ended.stdout.splitlines() == ["['vllm_service', 'vllm_service.version']", "[]", "RunPodVLLMService"]


async def test_the_router_in_process_reads_its_files_with_the_clients_extra(
    client_alone: Installed, directory: Path
) -> None:
    code = (
        "import asyncio, vllm_service\n"
        "async def main():\n"
        "    async with vllm_service.LLMRouter() as router:\n"
        "        print(router.explain('Hello', model='m').plan.steps[0].provider)\n"
        "asyncio.run(main())\n"
    )
    ended = await client_alone.run(directory, "python", "-W", "error", "-c", code, GROQ_API_KEY="a-key")
    assert (ended.stdout, ended.stderr) == ("hosted\n", "")
