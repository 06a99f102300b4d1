"""Replaces the estimated cost of rows in the ledger by what was billed."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_service.storage.sql.database import Database, Statement

_ROWS_AT_ONCE = 1000
_UPDATE = "UPDATE requests SET cost_picousd = $1 WHERE id = $2"


async def set_costs(database: Database, costs: Mapping[int, int]) -> None:
    """Sets costs: pico-dollars by the row's id. A transaction takes a thousand rows. Raises StorageUnavailable."""
    statements = [Statement(_UPDATE, (picousd, row)) for row, picousd in costs.items()]
    for start in range(0, len(statements), _ROWS_AT_ONCE):
        await database.write(*statements[start : start + _ROWS_AT_ONCE])
