"""`python -m vllm_service keys` and `ledger`, as people run them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from tests.vllm_service.storage.conftest import Backend
from tests.vllm_service.storage.ledger.test_ledger import RECORD
from vllm_service.__main__ import main
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.roles import Role
from vllm_service.storage.open import open_storage


@pytest.fixture
def location(backend: Backend) -> list[str]:
    if backend.database_url is None:
        return ["--data-dir", str(backend.data_dir)]
    return ["--database-url", backend.database_url]


async def run(*arguments: str) -> int:
    """Commands have an event loop of their own."""
    return await asyncio.to_thread(main, arguments)


async def test_a_key_is_made_listed_and_revoked(
    backend: Backend, location: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("keys", "create", "acme", "--tier", "production", *location) == 0
    secret = capsys.readouterr().out.strip()
    async with open_storage(*backend.locations) as storage:
        key = await storage.keys.find(secret)
    assert key is not None
    assert await run("keys", "list", *location) == 0
    listed = capsys.readouterr().out
    assert "acme" in listed
    assert secret not in listed
    assert await run("keys", "revoke", key.id, *location) == 0
    assert await run("keys", "revoke", "nobody", *location) == 1
    async with open_storage(*backend.locations) as storage:
        assert await storage.keys.find(secret) is None


async def test_a_key_has_the_least_role_unless_another_is_given_then_or_later(
    backend: Backend, location: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("keys", "create", "acme", *location) == 0
    assert await run("keys", "create", "acme", "--role", "viewer", *location) == 0
    plain, seeing = capsys.readouterr().out.split()
    async with open_storage(*backend.locations) as storage:
        keys = [await storage.keys.find(secret) for secret in (plain, seeing)]
    assert [key and key.role for key in keys] == [Role.CALLER, Role.VIEWER]
    assert await run("keys", "role", keys[0].id if keys[0] else "", "admin", "--json", *location) == 0
    assert await run("keys", "role", "nobody", "admin", *location) == 1
    capsys.readouterr()
    assert await run("keys", "list", "--json", *location) == 0
    assert sorted(key["role"] for key in json.loads(capsys.readouterr().out)["keys"]) == ["admin", "viewer"]
    with pytest.raises(SystemExit):
        await run("keys", "create", "acme", "--role", "root", *location)


async def test_limits_are_set_one_at_a_time(
    backend: Backend, location: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("keys", "limits", "acme", "--usd-per-month", "12.50", "--tokens-per-day", "none", *location) == 0
    assert await run("keys", "limits", "acme", "--requests-per-day", "7", *location) == 0
    assert "12.5" in capsys.readouterr().out
    async with open_storage(*backend.locations) as storage:
        limits = await storage.key_store.limits("acme")
    assert (limits.picousd_per_month, limits.tokens_per_day, limits.requests_per_day) == (12_500_000_000_000, None, 7)
    assert limits.tokens_per_month == 300_000_000


@pytest.mark.parametrize("wrong", [["--usd-per-month", "-1"], ["--tokens-per-day", "many"], ["--usd-per-month", "NaN"]])
async def test_a_limit_that_is_none_is_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        await run("keys", "limits", "acme", *wrong, "--data-dir", str(tmp_path))
    assert caught.value.code == 2


async def test_the_ledger_is_exported_summed_and_pruned(
    backend: Backend, location: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_storage(*backend.locations) as storage:
        for number in range(10):
            storage.ledger.record(replace(RECORD, request_id=f'r"{number}', started_at=RECORD.started_at + number))
        storage.ledger.record(replace(RECORD, usage=None, cost_picousd=None, ttft_ms=None))
        storage.ledger.record(replace(RECORD, started_at=1_000_000_000.0, cost_picousd=None))
    assert await run("ledger", "export", *location) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["request_id"] for row in rows[:10]] == [f'r"{number}' for number in range(10)]
    assert (rows[0]["cost_picousd"], rows[0]["stream"], rows[0]["started_at"]) == (
        "7", "true", "2027-01-15T08:00:00.250000+00:00",
    )  # fmt: skip
    assert (rows[10]["prompt_tokens"], rows[10]["cost_picousd"]) == ("", "")
    parquet = backend.data_dir / "ledger.parquet"
    assert await run("ledger", "export", "--format", "parquet", "--output", str(parquet), *location) == 0
    table = pq.read_table(parquet)
    assert table.column_names == list(rows[0])
    assert table["cost_picousd"].to_pylist() == [7] * 10 + [None] * 2
    assert await run("ledger", "summary", "--by", "organisation", "day", *location) == 0
    assert "2027-01-15" in capsys.readouterr().out
    assert await run("ledger", "prune", "--older-than-days", "3000", *location) == 0
    assert "1 rows deleted" in capsys.readouterr().err


async def test_the_summary_says_what_its_costs_rest_on(
    backend: Backend, location: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    costs = ((CostBasis.BILLED, 60), (CostBasis.BOOKED, 30), (CostBasis.EXPECTED, 5), (None, 5))
    async with open_storage(*backend.locations) as storage:
        for basis, picousd in costs:
            storage.ledger.record(replace(RECORD, cost_picousd=picousd, cost_basis=basis))
        storage.ledger.record(replace(RECORD, organisation="one basis", cost_basis=CostBasis.BOOKED))
    assert await run("ledger", "summary", *location) == 0
    table = capsys.readouterr().out
    assert "billed 60 %, booked 30 %, expected 5 %, of old rows 5 %" in table
    assert await run("ledger", "summary", "--json", *location) == 0
    document = json.loads(capsys.readouterr().out)
    mixed, single = document["groups"]
    names = [f"{basis}_cost_picousd" for basis in CostBasis]
    assert [mixed[name] for name in ("cost_picousd", *names)] == [100, 5, 30, 60]
    assert [single[name] for name in ("cost_picousd", *names)] == [7, 0, 7, 0]


async def test_a_day_with_nine_tenths_of_idle_seconds_shows_it_in_the_summary(
    backend: Backend, location: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"execution_picousd": 6 * 10**10, "cold_start_picousd": 4 * 10**10, "idle_picousd": 90 * 10**10}
    booked = {"provider": "own", "cost_picousd": 10**12, "cost_basis": CostBasis.BOOKED, "baseline_picousd": 3 * 10**12}
    async with open_storage(*backend.locations) as storage:
        storage.ledger.record(replace(RECORD, **booked, **parts))
    assert await run("ledger", "summary", *location) == 0
    shown = capsys.readouterr().out
    assert "own: workers $1.000000: execution 6.0 %, cold start 4.0 %, idle 90.0 %; booked." in shown
    assert "All together $1.000000, booked, $2.000000 less than the baseline." in shown
    day = ("--since", "2027-01-15", "--until", "2027-01-16")
    assert await run("ledger", "summary", "--json", *day, *location) == 0
    spend = json.loads(capsys.readouterr().out)["spend"]
    assert spend["providers"] == [{"provider": "own"} | spend["total"]]
    assert spend["total"] == {
        "spent_usd": 1.0,
        "parts_usd": {"execution": 0.06, "cold_start": 0.04, "idle": 0.9},
        "bases_usd": {"booked": 1.0},
        "worker_shares": {"execution": 0.06, "cold_start": 0.04, "idle": 0.9},
        "baseline_usd": 3.0,
        "saved_usd": 2.0,
        "unpriced_requests": 0,
    }
    assert await run("ledger", "summary", "--json", "--until", "2027-01-15", *location) == 0
    assert json.loads(capsys.readouterr().out)["spend"]["providers"] == []


@pytest.mark.parametrize("days", ["-10000", "0", "nan", "ten"])
async def test_an_age_that_would_delete_everything_is_refused(days: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        await run("ledger", "prune", "--older-than-days", days, "--data-dir", str(tmp_path))
    assert caught.value.code == 2


async def test_a_directory_that_cannot_be_made_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert await run("keys", "create", "acme", "--data-dir", str(tmp_path / "file")) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}/file/service.sqlite3: SQLite's file cannot be made: File exists. "
        "Set DATA_DIR to a directory that can be written, on a disk with room.\n"
    )


async def test_a_file_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("keys", "create", "acme", "--data-dir", str(tmp_path)) == 0
    capsys.readouterr()
    output = tmp_path / "missing" / "ledger.csv"
    assert await run("ledger", "export", "--output", str(output), "--data-dir", str(tmp_path)) == 1
    assert (
        capsys.readouterr().err == f"{output}: cannot be written: No such file or directory; name another --output.\n"
    )


async def test_a_database_that_is_not_there_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("keys", "list", "--database-url", "postgresql://nobody@127.0.0.1:1/none") == 1
    assert capsys.readouterr().err == (
        "Postgres at 127.0.0.1:1 cannot be reached: nothing listens there (ConnectionRefusedError). Start it, or "
        "correct DATABASE_URL.\n"
    )
