"""Commands that only read refuse a database that is not there, and make none; those that list have --json."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from tests.vllm_service.storage.ledger.test_ledger import RECORD
from vllm_service.__main__ import main
from vllm_service.storage.open import DATABASE_FILE, open_storage

READING = [
    ("keys", "list"),
    ("keys", "revoke", "x"),
    ("keys", "limits", "acme"),
    ("ledger", "summary"),
    ("ledger", "export"),
    ("ledger", "prune", "--older-than-days", "3"),
    ("compare", "--example", "--measured"),
]


async def run(*arguments: str) -> int:
    """Commands have an event loop of their own."""
    return await asyncio.to_thread(main, arguments)


@pytest.mark.parametrize("command", READING, ids=" ".join)
async def test_a_mistyped_directory_is_refused_and_not_made(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = tmp_path / "typo"
    assert await run(*command, "--data-dir", str(typed)) == 1
    assert capsys.readouterr().err.startswith(f"There is no database in {typed}: {DATABASE_FILE} is not there. Name")
    assert not typed.exists()


@pytest.mark.parametrize("command", READING, ids=" ".join)
async def test_another_programs_file_is_refused_and_stays_as_it_is(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sqlite3.connect(tmp_path / DATABASE_FILE)
    file.execute("CREATE TABLE others (x)")
    file.close()
    assert await run(*command, "--data-dir", str(tmp_path)) == 1
    assert "no tables of vllm-service" in capsys.readouterr().err
    with sqlite3.connect(tmp_path / DATABASE_FILE) as file:
        assert file.execute("SELECT name FROM sqlite_master").fetchall() == [("others",)]


@pytest.mark.parametrize("command", [("keys", "create", "acme"), ("keys", "limits", "acme", "--tokens-per-day", "7")])
async def test_what_writes_makes_the_database(command: tuple[str, ...], tmp_path: Path) -> None:
    assert await run(*command, "--data-dir", str(tmp_path / "new")) == 0
    assert (tmp_path / "new" / DATABASE_FILE).exists()


async def test_keys_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--json", "--data-dir", str(tmp_path))
    assert (
        await run("keys", "create", "acme", "--tier", "production", "--strategy", "cost", "--note", "an app", *where)
        == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert made["secret"].startswith(f"vs_{made['id']}_")
    assert await run("keys", "revoke", made["id"], *where) == 0
    assert json.loads(capsys.readouterr().out) == {"id": made["id"], "revoked": True}
    assert await run("keys", "list", *where) == 0
    (listed,) = json.loads(capsys.readouterr().out)["keys"]
    assert made["secret"] not in json.dumps(listed)
    assert (listed["organisation"], listed["tier"], listed["strategy"]) == ("acme", "production", "COST")
    assert (listed["note"], listed["annotate"]) == ("an app", True)
    assert listed["revoked_at"] >= listed["created_at"]
    assert await run("keys", "limits", "acme", "--usd-per-month", "none", "--tokens-per-day", "7", *where) == 0
    limits = json.loads(capsys.readouterr().out)["limits"]
    assert (limits["usd_per_month"], limits["tokens_per_day"]) == (None, 7)


async def test_a_summary_as_json_has_exact_sums(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_storage(None, None, tmp_path) as storage:
        for _ in range(3):
            storage.ledger.record(RECORD)
    assert await run("ledger", "summary", "--by", "organisation", "day", "--json", "--data-dir", str(tmp_path)) == 0
    document = json.loads(capsys.readouterr().out)
    (group,) = document["groups"]
    assert (group["organisation"], group["day"]) == (RECORD.organisation, "2027-01-15")
    assert (group["requests"], group["cost_picousd"]) == (3, 3 * (RECORD.cost_picousd or 0))
    assert document["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create", "a", "--tier", "gold"), "'gold' is not known; expected one of development, production"),
        (("keys", "create", "a", "--tier", "Production"), "'Production' is not known (did you mean production?)"),
        (("keys", "create", "a", "--strategy", "nope"), "'nope' is not known; expected one of COST, LATENCY"),
        (("ledger", "export", "--format", "xml"), "'xml' is not known; expected one of csv, parquet"),
        (("ledger", "summary", "--by", "modell"), "did you mean model?"),
    ],
)
def test_a_name_that_is_none_of_several_names_them(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--data-dir", str(tmp_path / "new")])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
