"""Replaces the estimated cost of rows in the ledger by what was billed."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.domain.cost_basis import CostParts
from vllm_service.storage.sql.database import Database, Statement

_ROWS_AT_ONCE = 1000
_UPDATE = """UPDATE requests SET cost_picousd = $1, cost_basis = 'billed', execution_picousd = $2,
    cold_start_picousd = $3, idle_picousd = $4 WHERE id = $5"""


async def set_billed(database: Database, billed: Mapping[int, CostParts]) -> None:
    """Sets costs and their parts, by the row's id. A transaction takes a thousand rows. Raises StorageUnavailable."""
    statements = [
        Statement(
            _UPDATE,
            (parts.total_picousd, parts.execution_picousd, parts.cold_start_picousd, parts.idle_picousd, row),
        )
        for row, parts in billed.items()
    ]
    for start in range(0, len(statements), _ROWS_AT_ONCE):
        await database.write(*statements[start : start + _ROWS_AT_ONCE])
