"""From requests through the gateway to booked rows before any bill: the emulator's workers, listed over REST v2."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path

import httpx

from runpod_emulator import EndpointSettings
from tests.contract.rest_contract import checked_emulator
from tests.e2e.gateway import command, configure, gateway, variables_of
from tests.runpod_emulator.support import ECHO_WORKER
from tests.waiting import until, until_seen

KEY = "endpoint-key"
SETTINGS = EndpointSettings(endpoint_id="ep", api_key=KEY, max_workers=1, idle_timeout_seconds=4)
PRICE_USD = 0.00031


async def test_cold_start_run_and_idle_tail_are_booked_within_seconds_and_near_the_bill(tmp_path: Path) -> None:
    async with checked_emulator(SETTINGS, ECHO_WORKER, ours=True) as (emulator, _):
        own: dict[str, object] = {"endpoint_id": "ep", "api_url": emulator.origin, "management_url": emulator.origin}
        own |= {"api_key_env": "OWN_KEY", "expected": {"idle_timeout_seconds": 4}}
        price = {"usd_per_second": PRICE_USD, "as_of": "2026-11-29"}
        configure(tmp_path, {"own": own | price}, {"m": {"offers": [{"provider": "own", "model": "m"}]}})
        async with gateway(tmp_path, OWN_KEY=KEY, ENDPOINT_HEALTH_SECONDS="0.2", WAKE_ENDPOINTS="false") as running:
            statuses = await _asked(running.url)
            assert statuses == [200] * 3
            await until(lambda: all(worker.exit_code is not None for worker in emulator.workers.values()), 60)
            billed = int(emulator.bill().total_usd * 10**12)

            async def are_booked() -> list[dict[str, str]]:
                """The rows, when they are near the bill: its worker's stop lies between two looks, 2 s apart."""
                rows = list(csv.DictReader(io.StringIO(await command("ledger", "export", **variables_of(tmp_path)))))
                off = sum(int(row["cost_picousd"]) for row in rows) - billed
                is_near = abs(off) <= 2.5 * PRICE_USD * 10**12
                return rows if is_near and {row["cost_basis"] for row in rows} == {"booked"} else []

            rows = await until_seen(are_booked, 60)
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                spend = (await client.get(f"{running.url.removesuffix('/v1')}/health")).json()["worker_spend"]
    assert len(rows) == 3
    for part in ("execution_picousd", "cold_start_picousd", "idle_picousd"):
        assert sum(int(row[part]) for row in rows) > 0
    assert (spend["is_booking"], spend["is_failing"], spend["lost"]) == (True, False, 0)
    assert spend["booked_lag_seconds"] < 30


async def _asked(url: str) -> list[int]:
    """Sends requests to a worker that answers what its input says."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    answer = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "sleep": 0.3, "answer": answer}
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        calls = [client.post(f"{url}/chat/completions", json=body) for _ in range(3)]
        answers = list(await asyncio.gather(*calls))
        return [answer.status_code for answer in answers]
