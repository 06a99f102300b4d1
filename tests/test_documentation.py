"""README's commands and the documentation's examples work as they are written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from handler.dispatch import Dispatcher
from handler.engine.embedded import EmbeddedEngine
from handler.settings import WorkerSettings
from tests.e2e import process
from tests.e2e.test_openai_node_client import install, run
from tests.support import Worker

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "SECURITY")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


COMMANDS = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() if line.strip()]
MAKE = [line for line in COMMANDS if "make " in line]
PYTHON = [line for line in COMMANDS if line.startswith(".venv/bin/python ")]
JOBS = blocks(ROOT / "docs" / "api.md", "json")
MERMAID = Path(__file__).with_name("mermaid")
# trace, x, scenario, COST in USD, in time, to the cheapest baseline, all hosted in USD, bound, gap caught
RUNS = re.findall(
    r"^\| \w+ \| [\d.]+ \| [\w-]+ \| ([\d.]+) \| [\d.]+ \| [^|]+ \| ([\d.]+) \|",
    (ROOT / "docs" / "routing.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)


def test_every_command_in_the_readme_is_of_a_kind_that_is_tested() -> None:
    assert len(MAKE) == 6
    assert len(PYTHON) == 4
    assert set(MAKE) | set(PYTHON) == set(COMMANDS)


@pytest.mark.parametrize("command", MAKE)
def test_a_make_command_names_a_target(command: str) -> None:
    """`make run` itself is its handler command, which runs below, and `make test` is what runs this."""
    words = shlex.split(command, comments=True)
    target = words[words.index("make") + 1]
    plan = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/python" in plan


@pytest.mark.parametrize("command", [line for line in PYTHON if "--rp_serve_api" not in line])
async def test_a_python_command_succeeds(command: str) -> None:
    """`--rp_serve_api` runs until it is stopped; tests/e2e/test_local_api.py does both."""
    ended = await process.run(*shlex.split(command)[1:])
    assert ended.code == 0, ended.stderr
    assert ended.stdout


@pytest.mark.parametrize("text", JOBS)
async def test_an_example_job_is_answered(text: str, engine: EmbeddedEngine, settings: WorkerSettings) -> None:
    assert await Worker(Dispatcher(engine, settings)).outputs(json.loads(text)["input"])


def tracked() -> list[Path]:
    """Every text file that git knows, or would: new ones are read before they are committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    binary = (".gz", ".npz", ".png", ".safetensors")
    return [ROOT / name for name in listed if not name.endswith(binary) and (ROOT / name).is_file()]


OUTSIDE = re.compile(
    r"(?<![\w.])/(?:work|mnt|opt|home|Users)/"  # a folder of somebody's machine
    r"|\.\./shared\b|(?<![\w/.-])shared/"  # beside the checkout
    r"|(?<![\w/])(?:API|DESIGN|FACTS|STYLE)\.md\b"  # what this was planned by
)


def test_no_change_is_listed_twice() -> None:
    """Merges bring an entry a second time."""
    changes = [line for line in (ROOT / "CHANGELOG.md").read_text("utf-8").splitlines() if line.startswith("- ")]
    assert sorted(changes) == sorted(set(changes))


def test_no_file_names_one_outside_the_repository() -> None:
    own = Path(__file__).resolve()
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        if path != own
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OUTSIDE.search(line)
    ]
    assert lines == []


def test_every_page_that_is_named_exists() -> None:
    """In code, comments and pages, by its path from the root."""
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for path in tracked()
        for page in re.findall(r"(?<![\w/.-])docs/[\w-]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert [(path, page) for path, page in sorted(named) if not (ROOT / page).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_leads_out_of_the_repository(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [(page.parent / target).resolve() for target in targets if "://" not in target]
    assert [path for path in local if not path.is_relative_to(ROOT)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_the_number_of_pairs_in_the_readme_is_right() -> None:
    pairs = (ROOT / "demo_model" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    sql = sum(json.loads(line)["topic"] == "sql" for line in pairs)
    assert f"[{len(pairs)} answers]" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"{sql} of them SQL" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed")
async def test_every_diagram_can_be_drawn() -> None:
    await install(MERMAID)
    pages = [str(page) for page in PAGES if blocks(page, "mermaid")]
    found = json.loads(await run("node", "parse.mjs", *pages, variables=os.environ, folder=MERMAID))
    assert found == {"diagrams": sum(len(blocks(page, "mermaid")) for page in PAGES), "faults": []}


def cents(usd: str) -> str:
    return str(Decimal(usd).quantize(Decimal("0.01"), ROUND_HALF_UP))


def test_the_savings_in_the_readme_are_those_of_the_runs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"\| \$([\d.]+) \| \$([\d.]+) \| (\d+) % \|", readme)
    known = {(cents(hosted), cents(cost), f"{100 * (1 - float(cost) / float(hosted)):.0f}") for cost, hosted in RUNS}
    assert shown
    assert set(shown) <= known


def test_the_readme_counts_the_runs_that_saved_nothing_too() -> None:
    ratios = [float(cost) / float(hosted) for cost, hosted in RUNS]
    less, more = sum(ratio < 0.995 for ratio in ratios), sum(ratio > 1.005 for ratio in ratios)
    sentence = (
        f"Of the {len(ratios)} runs {less} cost less than hosted providers alone, {len(ratios) - less - more} the same "
        f"within 0.5 %, and {more} more, by {100 * (max(ratios) - 1):.1f} % at most."
    )
    assert sentence in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


# Pages about the code. Others write paths of a machine or of a hub, such as `org/name`.
ABOUT_CODE = ("accounting", "architecture", "failing-over", "gateway", "operations", "routing", "runpod")


@pytest.mark.parametrize("page", ABOUT_CODE)
def test_every_path_that_a_page_about_the_code_names_exists(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    paths = {path for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", text) if re.search(r"/|\.(py|lua)$", path)}
    packages = [ROOT / name for name in ("vllm_service", "handler", "runpod_emulator")]
    names = {path.name for package in packages for path in package.rglob("*")}  # `sql/` is named beside its folder
    missing = [path for path in paths if not any((home / path).exists() for home in (ROOT, *packages))]
    assert sorted(path for path in missing if path.rstrip("/") not in names) == []
