"""A missing library is named with the extra that has it; the table of both is what the code imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from vllm_service.cli.extras import LIBRARIES, advice

ROOT = Path(__file__).resolve().parents[3]
# Libraries whose distributions are called otherwise; starlette comes with fastapi.
DISTRIBUTIONS = {
    "genai_prices": "genai-prices",
    "huggingface_hub": "huggingface-hub",
    "opentelemetry": "opentelemetry-sdk",
    "prometheus_client": "prometheus-client",
    "starlette": "fastapi",
    "yaml": "pyyaml",
}


def imported() -> set[str]:
    """Every library of somebody else's that is imported in vllm_service/, also inside functions."""
    found: set[str] = set()
    for path in (ROOT / "vllm_service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - {"vllm_service"} - set(sys.stdlib_module_names)


def test_the_table_has_every_library_that_is_imported_and_no_other() -> None:
    assert {library for libraries in LIBRARIES.values() for library in libraries} == imported()


@pytest.mark.parametrize("extra", LIBRARIES)
def test_the_extra_installs_its_libraries(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = [DISTRIBUTIONS.get(library, library) for library in LIBRARIES[extra]]
    assert [
        name for name in names if not any(line.startswith((f"{name}>", f"{name}=")) for line in extras[extra])
    ] == []


def test_the_advice_is_one_line_that_can_be_pasted() -> None:
    missing = ModuleNotFoundError("No module named 'redis.asyncio'", name="redis.asyncio")
    assert advice(missing, "vllm-service keys") == (
        "vllm-service keys needs the service extra: pip install 'vllm-service[service]' (redis is not installed)"
    )


def test_a_module_of_no_extra_is_a_defect_and_gets_no_advice() -> None:
    assert advice(ModuleNotFoundError("No module named 'vllm_service.x'", name="vllm_service.x"), "x") is None
