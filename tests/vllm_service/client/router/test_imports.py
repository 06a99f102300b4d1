"""numpy, which takes longest to load, is there only where workers of an own endpoint are counted or simulated."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest

from tests.vllm_service.client.runpod_provider import runpod
from tests.vllm_service.client.subprocesses import run_program
from vllm_service import cli
from vllm_service.testing import says

SIMULATING = {"advise", "explain", "simulate", "trace_options"}  # they play scenarios, or are part of those that do
ROUTER = """
import asyncio, sys
from vllm_service import LLMRouter
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel

OWN = Provider("own", ProviderKind.RUNPOD, {url!r}, "k", second_price={second_price})
HOSTED = Provider("hosted", ProviderKind.HOSTED, {url!r}, "k")
MODEL = PublicModel("m", (Offer("own", "m"), Offer("hosted", "m", TokenPrice.per_million("1", "1"))))

async def main():
    async with LLMRouter("QUALITY", Catalog({{"own": OWN, "hosted": HOSTED}}, {{"m": MODEL}})) as router:
        print("numpy" in sys.modules)
        print(await router.generate("hi"), "numpy" in sys.modules)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("second_price", "scales"),
    [("None", False), ('SecondPrice.per_second("0.0002")', True)],
    ids=["no price", "priced"],
)
async def test_a_router_loads_numpy_once_it_counts_workers_of_a_priced_endpoint(
    second_price: str, scales: bool, tmp_path: Path
) -> None:
    async with runpod(says("own")) as server:
        program = ROUTER.format(url=server.url, second_price=second_price)
        assert (await run_program(program, tmp_path)).split() == ["False", "own", str(scales)]


async def test_importing_a_command_that_simulates_nothing_loads_no_numpy(tmp_path: Path) -> None:
    names = [module.name for module in pkgutil.iter_modules(cli.__path__) if module.name not in SIMULATING]
    assert "serve" in names
    imports = "\n".join(f"import vllm_service.cli.{name}" for name in names)
    assert await run_program(f"import sys\n{imports}\nprint('numpy' in sys.modules)", tmp_path) == "False\n"
