"""What `ledger export` writes is read back as it was."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.waiting import until
from vllm_service.domain.requests import Outcome, RequestRecord
from vllm_service.domain.usage import Usage
from vllm_service.errors import ConfigurationError
from vllm_service.storage.ledger.csv import CsvLedger
from vllm_service.storage.ledger.export import write_csv
from vllm_service.storage.ledger.reader import LedgerReader
from vllm_service.storage.ledger.writer import LedgerWriter
from vllm_service.storage.sql.database import Database

RECORDS = [
    RequestRecord(
        request_id="a",
        started_at=1_793_620_800.123456,
        key_id="key",
        organisation='an "organisation", with a comma',
        operation="chat.completions",
        model="llama",
        outcome=Outcome.COMPLETED,
        status=200,
        provider="own",
        upstream_model="llama-3.1",
        usage=Usage(10, 5, 3, 2, estimated=True),
        cost_picousd=2**60 + 1,
        baseline_picousd=0,
        stream=True,
        queue_ms=0.5,
        ttft_ms=12.25,
        total_ms=1234.5,
        attempts=2,
        route_reason="cheapest: own, warm",
    ),
    RequestRecord(
        request_id="b",
        started_at=1_793_620_801.0,
        key_id="key",
        organisation="o",
        operation="embeddings",
        model="m",
        outcome=Outcome.REJECTED,
        status=429,
        error_code="RATE_LIMIT_429",
    ),
]


async def test_an_export_is_read_back(database: Database, tmp_path: Path) -> None:
    writer = await LedgerWriter.open(database)
    for record in RECORDS:
        writer.record(record)
    await until(lambda: writer.written_rows == len(RECORDS))
    await writer.close()
    path = tmp_path / "export.csv"
    await write_csv(LedgerReader(database).records(), path)
    ledger = CsvLedger(path)
    assert list(ledger) == RECORDS
    assert list(ledger) == RECORDS, "it can be read twice"


FORMULAS = [
    f"{first}1+1" for first in ("=", "+", "-", "@", "\t=", "\r=", "\n=", "\uff1d", "\uff0b", "\uff0d", "\uff20")
]


@pytest.mark.parametrize("text", [*FORMULAS, "'=1+1", "''", "'plain", "-5", '=HYPERLINK("http://x","y")'])
@pytest.mark.parametrize("field", ["request_id", "organisation", "model", "upstream_model", "route_reason", "labels"])
async def test_no_text_of_a_caller_is_a_formula_and_it_is_read_back(tmp_path: Path, text: str, field: str) -> None:
    record = msgspec.structs.replace(RECORDS[0], **{field: text})
    path = tmp_path / "export.csv"
    await write_csv(numbered(record), path)
    with path.open(encoding="utf-8", newline="") as file:
        cells = {cell for row in list(csv.reader(file))[1:] for cell in row}
    assert not [cell for cell in cells if cell[:1] in {formula[0] for formula in FORMULAS}]
    assert list(CsvLedger(path)) == [record]


async def test_numbers_and_times_stay_as_they_are(tmp_path: Path) -> None:
    record = msgspec.structs.replace(RECORDS[0], cost_picousd=-7, queue_ms=-0.5, started_at=-1.5)
    path = tmp_path / "export.csv"
    await write_csv(numbered(record), path)
    with path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["cost_picousd"], row["queue_ms"]) == ("-7", "-0.5")
    assert list(CsvLedger(path)) == [record]


async def numbered(*records: RequestRecord) -> AsyncIterator[tuple[int, RequestRecord]]:
    for number, record in enumerate(records, 1):
        yield number, record


@pytest.mark.parametrize("content", [b"\x1f\x8b broken", b""])
def test_a_broken_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "export.csv.gz"
    path.write_bytes(content)
    if content:
        with pytest.raises(ConfigurationError, match="the ledger cannot be read"):
            list(CsvLedger(path))
    else:
        assert list(CsvLedger(path)) == []


def test_dollars_are_read_where_there_are_no_pico_dollars(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("started_at_us,cost_usd,provider\n1793620800000001,0.000000000007,own\n")
    (record,) = CsvLedger(path)
    assert (record.cost_picousd, record.started_at) == (7, 1_793_620_800.000001)


@pytest.mark.parametrize("amount", ["Infinity", "NaN", "1e9999999", "a dollar", "0.0000000000001"])
def test_an_amount_that_is_none_is_named_with_its_line(tmp_path: Path, amount: str) -> None:
    path = tmp_path / "export.csv"
    path.write_text(f"started_at_us,cost_usd\n1793620800000001,0.1\n1793620800000001,{amount}\n")
    with pytest.raises(ConfigurationError, match=r"export\.csv: line 3 is not a row of the ledger"):
        list(CsvLedger(path))
