"""Several gateway processes behind one port, on a real Redis and Postgres: killed, reloaded, drained."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from runpod_emulator import Emulator, EndpointSettings
from runpod_emulator.hosted import HostedModel, HostedSettings
from tests.e2e.gateway import Gateway, command, configure, gateway, variables_of
from tests.e2e.process import run
from tests.servers import PostgresServer, RedisServer
from tests.waiting import until

WORKERS = 3
MODEL = HostedModel(id="m", answer_tokens=20)
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@dataclass(frozen=True)
class Several:
    """The gateway, and what it was told."""

    gateway: Gateway
    emulator: Emulator
    variables: dict[str, str]
    port: int

    @property
    def workers(self) -> set[int]:
        """Process ids."""
        return {child.pid for child in psutil.Process(self.gateway.process.pid).children()}

    @property
    def log(self) -> str:
        return (self.gateway.directory / "log").read_text()

    async def measured(self, number: int) -> dict[str, float]:
        """One worker's own numbers, at its own port."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"http://127.0.0.1:{self.port + number}/metrics")).text
        return {
            sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
        }


@asynccontextmanager
async def several(directory: Path, redis: RedisServer, postgres: PostgresServer) -> AsyncIterator[Several]:
    redis.empty()
    provider = HostedSettings(name="hosted", models=(MODEL,), ttft_seconds=0.02, tokens_per_second=40)
    async with Emulator(EndpointSettings(), None, hosted=[provider]) as emulator:
        configured(directory, emulator, "m")
        port = free_ports(WORKERS)
        variables = {
            "DATABASE_URL": await postgres.emptied(),
            "REDIS_URL": redis.url,
            "SERVICE_WORKERS": str(WORKERS),
            "SERVICE_WORKER_PORT": str(port),
            "REQUESTS_PER_SECOND_PER_IP": "100000",
        }
        async with gateway(directory, **variables) as running:
            yield Several(running, emulator, variables, port)


def configured(directory: Path, emulator: Emulator, *names: str) -> None:
    offers = [{"provider": "hosted", "model": "m"}]
    configure(
        directory, {"hosted": {"base_url": emulator.hosted_url("hosted")}}, {name: {"offers": offers} for name in names}
    )


def free_ports(count: int) -> int:
    """The port before `count` free ones in a row, below those that the system gives to anybody who asks for one."""
    while True:
        begin = 20_000 + secrets.randbelow(12_000)
        try:
            for port in range(begin + 1, begin + count + 1):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return begin


async def test_a_killed_worker_is_started_again_and_the_port_is_served_meanwhile(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    async with several(tmp_path, redis_server, postgres_server) as here:
        before = here.workers
        assert len(before) == WORKERS
        assert [(await here.measured(number))["vllm_gateway_process"] for number in (1, 2, 3)] == [1, 2, 3]
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        for _ in range(20):
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"{here.gateway.url}/models")).status_code == 200
        await until(lambda: len(here.workers) == WORKERS and victim not in here.workers)
        assert before - {victim} < here.workers
        assert "ended by SIGKILL; it is started again" in here.log
        numbers = [(await here.measured(number))["vllm_gateway_process_restarts_total"] for number in (2, 3)]
        assert numbers == [1, 1]


async def test_sighup_reaches_every_worker(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    async with several(tmp_path, redis_server, postgres_server) as here:
        configured(tmp_path, here.emulator, "m", "later")
        here.gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: here.log.count("has been read again") == WORKERS)
        for number in range(1, WORKERS + 1):
            assert (await here.measured(number))["vllm_catalog_models"] == 2


async def test_sigterm_drains_every_worker_and_each_writes_its_rows(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    async with several(tmp_path, redis_server, postgres_server) as here:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            ports = [here.port + number % WORKERS + 1 for number in range(12)]
            begun = asyncio.Queue[None]()

            async def streamed(port: int) -> bytes:
                ask = ASK | {"stream": True}
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                async with client.stream("POST", url, json=ask) as answer:
                    begun.put_nowait(None)
                    return b"".join([piece async for piece in answer.aiter_bytes()])

            calls = [asyncio.create_task(streamed(port)) for port in ports]
            for _ in calls:
                await begun.get()
            here.gateway.process.send_signal(signal.SIGTERM)
            assert all(body.endswith(b"data: [DONE]\n\n") for body in await asyncio.gather(*calls))
        await here.gateway.stop()
        ledger = await command("ledger", "export", **variables_of(tmp_path, **here.variables))
    assert ledger.count(",completed,") == len(calls)


async def test_workers_do_not_outlive_their_parent(
    tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
) -> None:
    async with several(tmp_path, redis_server, postgres_server) as here:
        left = here.workers
        here.gateway.process.kill()
        await here.gateway.process.wait()
        await until(lambda: not any(psutil.pid_exists(pid) and _lives(pid) for pid in left))


async def test_a_database_that_no_worker_would_reach_ends_the_service_before_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text(json.dumps({"providers": {"p": {"base_url": "http://127.0.0.1:9/v1"}}}))
    (tmp_path / "models.yaml").write_text(json.dumps({"models": {"m": {"offers": [{"provider": "p", "model": "m"}]}}}))
    told = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1"}
    ended = await run("-m", "vllm_service", "serve", **variables_of(tmp_path, SERVICE_WORKERS="2", **told))
    assert ended.code == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("Postgres at 127.0.0.1:1 cannot be reached")
    assert len(ended.stderr.splitlines()) == 1


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
