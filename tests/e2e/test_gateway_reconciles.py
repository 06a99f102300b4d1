"""From requests through the gateway to the emulator's bill: the whole bill is booked to the requests that caused it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from runpod_emulator import Emulator, EndpointSettings
from tests.e2e.gateway import command, configure, gateway, variables_of
from tests.runpod_emulator.support import ECHO_WORKER
from tests.waiting import until, until_seen

KEY, REQUESTS = "endpoint-key", 6
SETTINGS = EndpointSettings(endpoint_id="ep", api_key=KEY, max_workers=1, idle_timeout_seconds=1)


async def test_the_bill_of_the_endpoint_is_booked_to_its_requests_to_the_last_unit(tmp_path: Path) -> None:
    async with Emulator(SETTINGS, ECHO_WORKER) as emulator:
        own = {"endpoint_id": "ep", "api_url": emulator.origin, "api_key_env": "OWN_KEY"}
        price = {"usd_per_second": 0.00031, "as_of": "2026-11-21"}
        configure(tmp_path, {"own": own | price}, {"m": {"offers": [{"provider": "own", "model": "m"}]}})
        async with gateway(tmp_path, OWN_KEY=KEY) as running:
            answers = await _asked(running.url)
            assert [answer.status_code for answer in answers] == [200] * REQUESTS
            assert answers[0].json()["cost_info"]["is_estimate"] is True
            assert await _workers_seen(running.url)
            await until(lambda: all(worker.exit_code is not None for worker in emulator.workers.values()), 60)
        report = await _reconciled(tmp_path, f"{emulator.url}/billing")
        booked = [await _reconciled(tmp_path, f"{emulator.url}/billing", "--book") for _ in range(2)]
        bill = int(emulator.bill().total_usd * 10**12)
    total, parts = report["total"], report["attribution"]
    assert (total["requests"], total["unpriced_requests"]) == (REQUESTS, 0)
    assert total["difference_usd"] != 0  # what rows were expected to cost knows of no cold start
    assert booked[0] == booked[1]
    assert booked[0]["total"] | {"difference_usd": 0.0, "booked_usd": total["billed_usd"]} == booked[0]["total"]
    rows = list(csv.DictReader(io.StringIO(await command("ledger", "export", **variables_of(tmp_path)))))
    assert sum(int(row["cost_picousd"]) for row in rows) == bill
    assert {row["cost_basis"] for row in rows} == {"billed"}
    parts_of_rows = ("execution_picousd", "cold_start_picousd", "idle_picousd")
    assert sum(int(row[part]) for row in rows for part in parts_of_rows) == bill
    assert total["billed_usd"] > 0
    assert parts["nobody_usd"] == 0
    assert sum(parts.values()) == pytest.approx(total["billed_usd"], rel=1e-9)
    assert min(parts["cold_start_usd"], parts["execution_usd"], parts["idle_usd"]) > 0


async def _asked(url: str) -> list[httpx.Response]:
    """Sends requests to a worker that answers what its input says, here without usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
    answer = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "sleep": 0.3, "answer": answer}
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        calls = (client.post(f"{url}/chat/completions", json=body) for _ in range(REQUESTS))
        return list(await asyncio.gather(*calls))


async def _workers_seen(url: str) -> bool:
    """Whether the gateway's own metrics tell of a worker; it looks every 2 s."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:

        async def are_seen() -> bool:
            text = (await client.get(f"{url.removesuffix('/v1')}/metrics")).text
            return 'vllm_workers_running{provider="own"}' in text

        return await until_seen(are_seen)


async def _reconciled(directory: Path, bill: str, *more: str) -> dict[str, Any]:
    variables = variables_of(directory, RUNPOD_API_KEY=KEY)
    document: dict[str, Any] = json.loads(
        await command("reconcile", "--bill", bill, "--provider", "own", "--json", *more, **variables)
    )
    return document
