"""`reconcile` as its users run it, on the bill of a real emulator whose real workers ran real jobs."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from runpod_emulator import Emulator, EndpointSettings
from tests.e2e import process
from tests.runpod_emulator.support import ECHO_WORKER, client_of
from tests.vllm_service.runpod.scripted import raw, scripted
from tests.waiting import until
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.storage.ledger.lives import BookedDay, add_to_day
from vllm_service.storage.ledger.writer import LedgerWriter
from vllm_service.storage.open import open_database

SETTINGS = EndpointSettings(api_key="secret-key", max_workers=1, idle_timeout_seconds=0.5, stop_grace_seconds=10)
Row = dict[str, object]
BILL = json.dumps([{"amount": 0.002, "endpointId": "ep", "time": "2026-11-02T00:00:00Z"}])


def row(name: str, started: float, ended: float, cost_picousd: int | None, provider: str = "own") -> Row:
    return {
        "request_id": name,
        "started_at": started,
        "outcome": "completed",
        "status": 200,
        "provider": provider,
        "cost_picousd": "" if cost_picousd is None else cost_picousd,
        "total_ms": (ended - started) * 1000,
    }


def write(path: Path, rows: Sequence[Row]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


async def test_what_real_workers_cost_is_booked_to_the_last_unit(tmp_path: Path) -> None:
    """Two requests share a worker; the ledger is given exactly the bill, so nothing may differ."""
    async with (
        Emulator(SETTINGS, ECHO_WORKER) as emulator,
        client_of(emulator, Authorization="Bearer secret-key") as http,
    ):
        spans: dict[str, tuple[float, float]] = {}

        async def ask(name: str) -> None:
            started = time.time()
            await http.post("/runsync", json={"input": {"sleep": 0.2}})
            spans[name] = started, time.time()

        await asyncio.gather(ask("a"), ask("b"))
        await until(lambda: all(worker.exit_code is not None for worker in emulator.workers.values()))
        cost = int(emulator.bill().total_usd * 10**12)
        rows = [row("a", *spans["a"], cost - 1), row("b", *spans["b"], 1), row("c", *spans["a"], 5, "hosted")]
        ledger = str(write(tmp_path / "ledger.csv.gz", rows))
        arguments = ("--bill", f"{emulator.url}/billing", "--ledger", ledger, "--provider", "own")
        command = ("-m", "vllm_service", "reconcile", *arguments, "--json", "--tolerance", "0")
        ended = await process.run(*command, RUNPOD_API_KEY="secret-key")
    assert ended.code == 0, ended.stderr
    document = ended.document
    assert document["total"] == {
        "billed_usd": cost / 10**12,
        **dict.fromkeys(("gpu_usd", "cpu_usd", "disk_usd", "fee_usd", "volume_usd")),
        "beyond_parts_usd": 0.0,
        "compute_usd": cost / 10**12,
        "booked_usd": cost / 10**12,
        "nobody_usd": None,
        "unexplained_usd": None,
        "difference_usd": 0.0,
        "difference_percentage": 0.0,
        "requests": 2,
        "unpriced_requests": 0,
    }
    shares = document["attribution"]
    assert sum(shares.values()) == pytest.approx(cost / 10**12)
    assert shares["nobody_usd"] == 0
    assert min(shares["execution_usd"], shares["cold_start_usd"], shares["idle_usd"]) > 0


async def reconcile(tmp_path: Path, rows: Sequence[Row], *arguments: str) -> process.Finished:
    bill = tmp_path / "bill.json"
    bill.write_text(BILL)
    ledger = str(write(tmp_path / "ledger.csv", rows))
    return await process.run("-m", "vllm_service", "reconcile", "--bill", str(bill), "--ledger", ledger, *arguments)


NOON = 1_793_620_800.0  # 2026-11-02T12:00:00Z


async def test_the_table_shows_the_difference_of_each_day_and_what_is_unknown(tmp_path: Path) -> None:
    rows = [row("a", NOON, NOON + 1, 10**9), row("b", NOON, NOON + 1, None)]
    ended = await reconcile(tmp_path, rows, "--tolerance", "10")
    assert ended.code == 1
    for text in ("2026-11-02", "0.001000", "0.002000", "-0.001000", "-50.00", "1 requests have no known cost"):
        assert text in ended.stdout


async def test_only_the_days_asked_for_are_compared(tmp_path: Path) -> None:
    rows = [row("a", NOON, NOON + 1, 10**9), row("b", NOON + 86_400, NOON + 86_401, 7)]
    ended = await reconcile(tmp_path, rows, "--json", "--since", "2026-11-02", "--until", "2026-11-02")
    assert [day["day"] for day in ended.document["days"]] == ["2026-11-02"]
    assert ended.document["total"]["booked_usd"] == 0.001
    assert ended.document["attribution"] is None


def v2_bills(tmp_path: Path, total: float = 1.5) -> tuple[str, ...]:
    """Writes RunPod's two bills of a day in the shapes of its published schema; returns the arguments for them."""
    times = {"startTime": "2026-11-02T00:00:00Z", "endTime": "2026-11-03T00:00:00Z"}
    amounts = {"totalAmount": total, "gpuAmount": 1.0, "cpuAmount": 0.25, "diskAmount": 0.05, "feeAmount": 0.2}
    volume = {"totalAmount": 0.07, "standardAmount": 0.07, "highPerformanceAmount": 0}
    documents = {
        "serverless": [times | {"serverlessId": name} | amounts for name in ("ep", "another")],
        "volumes": [times | {"networkVolumeId": name} | volume for name in ("v1", "v2", "v3")],
    }
    for name, records in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"records": records, "metadata": {}}))
    return tuple(f"--bill={tmp_path / name}.json" for name in documents)


async def reconcile_v2(tmp_path: Path, *arguments: str, total: float = 1.5) -> process.Finished:
    ledger = str(write(tmp_path / "ledger.csv", [row("a", NOON, NOON + 1, 10**12)]))
    chosen = ("--endpoint", "ep", "--volume", "v1", "--volume", "v3", "--ledger", ledger)
    bills = v2_bills(tmp_path, total)
    return await process.run("-m", "vllm_service", "reconcile", *bills, *chosen, *arguments)


async def test_the_parts_of_runpods_bills_are_shown_and_only_the_workers_part_is_compared(tmp_path: Path) -> None:
    ended = await reconcile_v2(tmp_path, "--json", "--tolerance", "20.1")
    assert ended.code == 0, ended.stderr
    (day,) = ended.document["days"]
    assert day == {
        "day": "2026-11-02",
        "billed_usd": 1.64,
        "gpu_usd": 1.0,
        "cpu_usd": 0.25,
        "disk_usd": 0.05,
        "fee_usd": 0.2,
        "volume_usd": 0.14,
        "beyond_parts_usd": 0.0,
        "compute_usd": 1.25,
        "booked_usd": 1.0,
        "nobody_usd": None,
        "unexplained_usd": None,
        "difference_usd": -0.25,
        "difference_percentage": -20.0,
        "requests": 1,
        "unpriced_requests": 0,
    }
    assert ended.document["total"] | {"day": "2026-11-02"} == day


async def test_a_total_that_is_not_its_parts_is_a_line_below_the_table(tmp_path: Path) -> None:
    ended = await reconcile_v2(tmp_path, total=1.75)
    for text in (
        "GPU $",
        "volume $",
        "0.140000",
        "2026-11-02: the bill's total is $+0.250000 from the sum of its parts",
    ):
        assert text in ended.stdout
    assert "from the sum" not in (await reconcile_v2(tmp_path)).stdout


async def test_of_a_url_without_a_path_runpods_rest_api_is_asked_for_endpoint_and_volumes(tmp_path: Path) -> None:
    v2_bills(tmp_path)
    served = [raw(200, (tmp_path / f"{name}.json").read_bytes()) for name in ("serverless", "volumes", "volumes")]
    ledger = str(write(tmp_path / "ledger.csv", [row("a", NOON, NOON + 1, 10**12)]))
    chosen = ("--endpoint=ep", "--volume=v1", "--volume=v3", "--since=2026-11-02", "--until=2026-11-03")
    async with scripted() as script:
        script.answers = served
        command = ("-m", "vllm_service", "reconcile", "--bill", script.origin, "--ledger", ledger, *chosen, "--json")
        ended = await process.run(*command, RUNPOD_API_KEY="secret-key")
    assert ended.code == 0, ended.stderr
    assert [(day["day"], day["volume_usd"]) for day in ended.document["days"]] == [("2026-11-02", 0.14)]
    targets = [(target.partition("?")[0], headers["authorization"]) for _, target, headers, _ in script.asked]
    volumes = ("/v2/billing/network-volumes", "Bearer secret-key")
    assert targets == [("/v2/billing/serverless", "Bearer secret-key"), volumes, volumes]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--bill", "http://billing.invalid"), "use https"),
        (("--bill", "https://billing.invalid", "--since=2026-11-03", "--until=2026-11-02"), "correct --since"),
    ],
)
async def test_a_rest_api_that_cannot_be_asked_is_refused_before_a_key_is_sent(
    tmp_path: Path, arguments: Sequence[str], text: str
) -> None:
    command = ("-m", "vllm_service", "reconcile", "--ledger", str(tmp_path / "none.csv"), *arguments)
    ended = await process.run(*command, RUNPOD_API_KEY="secret-key")
    assert (ended.code, text in ended.stderr, "secret-key" in ended.stderr) == (1, True, False)


async def of_database(tmp_path: Path, bill: str, *arguments: str, data_dir: Path | None = None) -> process.Finished:
    path = tmp_path / "bill.json"
    path.write_text(bill)
    command = ("-m", "vllm_service", "reconcile", "--bill", str(path), "--json", *arguments)
    return await process.run(*command, DATA_DIR=str(data_dir or tmp_path))


async def keep(directory: Path, *records: RequestRecord) -> None:
    database = await open_database(None, directory)
    writer = await LedgerWriter.open(database)
    for record in records:
        writer.record(record)
    await until(lambda: writer.written_rows == len(records))
    await writer.close()
    await database.close()


def sent(name: str, started: float, cost_picousd: int, provider: str = "own", total_ms: float = 0) -> RequestRecord:
    return RequestRecord(
        request_id=name,
        started_at=started,
        key_id="k",
        organisation="o",
        operation="chat",
        model="m",
        outcome=Outcome.COMPLETED,
        status=200,
        provider=provider,
        cost_picousd=cost_picousd,
        total_ms=total_ms,
    )


async def test_without_an_export_the_services_own_ledger_is_read(tmp_path: Path) -> None:
    await keep(tmp_path, sent("a", NOON, 2 * 10**9))
    ended = await of_database(tmp_path, BILL)
    assert ended.document["total"]["difference_usd"] == 0.0


async def kept_day(directory: Path) -> None:
    """Keeps a day of an own endpoint: $0.9 are booked to a request, and $0.3 to none."""
    booked = {"cost_basis": CostBasis.BOOKED, "execution_picousd": 9 * 10**11, "cold_start_picousd": 0}
    await keep(directory, replace(sent("a", NOON, 9 * 10**11), **booked, idle_picousd=0))
    number = int(NOON // 86_400)
    database = await open_database(None, directory)
    await database.write(add_to_day(BookedDay("own", "ep", number, 1, 9 * 10**11, 0, 0, 0, 3 * 10**11)))
    await database.close()


async def booked_v2(tmp_path: Path, *arguments: str) -> process.Finished:
    chosen = ("--endpoint", "ep", "--volume", "v1", "--book", *arguments)
    command = ("-m", "vllm_service", "reconcile", *v2_bills(tmp_path, 2.95), *chosen)
    return await process.run(*command, DATA_DIR=str(tmp_path))


async def test_runpods_own_bill_is_booked_by_day_and_the_rest_is_shown(tmp_path: Path) -> None:
    """Of $1.25 for workers $1.2 were seen: more than the tolerance, so the rest is spread over nobody."""
    await kept_day(tmp_path)
    first, second = [await booked_v2(tmp_path, "--json", "--tolerance", "0") for _ in range(2)]
    assert (first.code, first.stderr) == (0, "")
    assert first.document == second.document
    (day,) = first.document["days"]
    names = ("booked_usd", "nobody_usd", "unexplained_usd", "compute_usd", "difference_usd", "volume_usd", "disk_usd")
    assert [day[name] for name in names] == [0.9, 0.3, 0.05, 1.25, 0.0, 0.07, 0.05]
    table = (await booked_v2(tmp_path)).stdout
    for text in ("no request $", "unexplained $", "0.050000"):
        assert text in table


async def test_a_bill_by_day_is_booked_at_one_provider(tmp_path: Path) -> None:
    await kept_day(tmp_path)
    ended = await booked_v2(tmp_path, "--provider", "own", "--provider", "other")
    assert (ended.code, ended.stderr) == (
        1,
        "name the one provider that was billed with --provider: ['other', 'own']\n",
    )


async def test_a_day_that_is_not_over_is_kept_and_not_booked(tmp_path: Path) -> None:
    await keep(tmp_path, sent("a", time.time(), 5))
    bill = json.dumps([{"amount": 1, "time": time.strftime("%Y-%m-%dT00:00:00Z", time.gmtime())}])
    ended = await of_database(tmp_path, bill, "--book")
    assert ended.code == 0
    assert "is kept and not booked yet: the day is not over" in ended.stderr
    assert ended.document["total"]["booked_usd"] == 5e-12


async def test_a_bill_without_times_is_not_booked(tmp_path: Path) -> None:
    await keep(tmp_path, sent("a", NOON, 5))
    ended = await of_database(tmp_path, '[{"amount": 1}]', "--book")
    assert (ended.code, "neither the times of workers nor days" in ended.stderr) == (1, True)


async def test_where_there_is_no_ledger_none_is_made(tmp_path: Path) -> None:
    nowhere = tmp_path / "nothing"
    missing = await of_database(tmp_path, BILL, data_dir=nowhere)
    assert (missing.code, "There is no database in" in missing.stderr) == (1, True)
    assert not nowhere.exists()


async def test_of_the_database_only_the_days_asked_for_are_read(tmp_path: Path) -> None:
    """Another provider's row on another day is not seen, so nobody asks which of the two was billed."""
    await keep(tmp_path, sent("a", NOON, 2 * 10**9), sent("b", NOON + 86_400, 5, "hosted"))
    both = await of_database(tmp_path, BILL)
    assert (both.code, "several providers" in both.stderr) == (1, True)
    ended = await of_database(tmp_path, BILL, "--since", "2026-11-02", "--until", "2026-11-02")
    assert ended.document["total"]["requests"] == 1


async def test_who_was_at_a_billed_worker_pays_for_it_also_from_another_day(tmp_path: Path) -> None:
    await keep(tmp_path, sent("a", NOON - 60, 5, total_ms=120_000))
    worker = {"worker_id": "w", "total_usd": "0.5", "started_at": NOON, "ready_at": NOON, "stopped_at": NOON + 60}
    bill = json.dumps({"workers": [worker]})
    ended = await of_database(tmp_path, bill, "--since", "2026-11-03", "--until", "2026-11-03")
    assert ended.document["days"] == []
    assert ended.document["attribution"]["execution_usd"] == 0.5


async def test_a_ledger_of_several_providers_asks_which_was_billed(tmp_path: Path) -> None:
    ended = await reconcile(tmp_path, [row("a", NOON, NOON, 1), row("b", NOON, NOON, 1, "hosted")])
    assert (ended.code, ended.stderr) == (
        1,
        "the ledger holds several providers: name what was billed with --provider: ['hosted', 'own']\n",
    )


@pytest.mark.parametrize(
    "broken", [{"started_at": "soon"}, {"started_at": ""}, {"cost_picousd": "1.5"}, {"outcome": "fine"}]
)
async def test_a_broken_row_is_named_by_its_line(tmp_path: Path, broken: Row) -> None:
    ended = await reconcile(tmp_path, [row("a", NOON, NOON, 1), row("b", NOON, NOON, 1) | broken])
    assert ended.code == 1
    assert "line 3 is not a row of the ledger" in ended.stderr


async def test_arguments_that_are_wrong_end_with_2() -> None:
    assert (await process.run("-m", "vllm_service", "reconcile")).code == 2
    assert (await process.run("-m", "vllm_service", "unknown")).code == 2
