"""The cold starts that the gateway's ledger knows of an endpoint, for `deploy plan`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from vllm_service.settings import ServiceSettings
from vllm_service.storage.ledger.cold_starts import ColdStart, cold_starts
from vllm_service.storage.open import DATABASE_FILE, open_database


async def measured(
    options: argparse.Namespace, environment: Mapping[str, str] | None, endpoint_id: str
) -> list[ColdStart]:
    """Returns the measured starts; none where there is no ledger. Raises ServiceError for one that cannot be read.

    options: with those of storage_options.add_location. environment: this process's by default.
    """
    settings = ServiceSettings.from_environment(environment)
    database_url = options.database_url or (None if options.data_dir else settings.database_url)
    data_dir = options.data_dir or settings.data_dir
    if not database_url and options.data_dir is None and not (data_dir / DATABASE_FILE).is_file():
        return []
    database = await open_database(database_url, data_dir, must_have_tables=True)
    try:
        return await cold_starts(database, endpoint_id)
    finally:
        await database.close()
