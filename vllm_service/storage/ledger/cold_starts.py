"""The cold starts of an endpoint's workers, as the gateway has seen them."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_service.storage.sql.database import Database

#: Older starts say little of today's image and model.
MOST_STARTS = 200
_STARTS = """SELECT gpu_type, ready_at_us - started_at_us FROM worker_lives
    WHERE endpoint_id = $1 AND known_by = 'workers' AND gpu_type IS NOT NULL AND ready_at_us > started_at_us
    ORDER BY started_at_us DESC LIMIT $2"""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One worker's way from its start to being ready."""

    #: RunPod's id of the GPU type.
    gpu_type: str
    seconds: float


async def cold_starts(database: Database, endpoint_id: str) -> list[ColdStart]:
    """Returns the newest MOST_STARTS starts that RunPod's list of workers showed. Raises StorageUnavailable."""
    rows = await database.fetch(_STARTS, endpoint_id, MOST_STARTS)
    return [ColdStart(gpu_type, microseconds / 1e6) for gpu_type, microseconds in rows]
