"""The gateway under attack, `python -m vllm_service serve` of any checkout; a provider; a Redis that may be slow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import RedisServer, own_redis

#: The gateway has a core of its own; load, attackers and provider share the other one.
GATEWAY_CORE = 0
LOAD_CORE = 1
START_SECONDS = 30.0
#: What the attacker's organisation has opened for itself alone hurts nobody.
_OPENED = re.compile(r"circuit breaker of (?!.*for the organisation 'bad' alone).*: open,")


@dataclass
class Stack:
    """A running gateway, and its callers' keys."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    good_keys: list[str]
    #: All of one organisation.
    bad_keys: list[str]
    redis: RedisServer | None

    @property
    def openings(self) -> int:
        """Returns how often a circuit breaker has opened, by the log: see `openings_in`."""
        return openings_in(self.log)

    @property
    def is_alive(self) -> bool:
        """Returns whether the process runs."""
        return self.process.poll() is None

    def reset_peak(self) -> float:
        """Begins the peak of the resident memory anew; returns the present MB."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self._status_mb("VmRSS")

    @property
    def peak_mb(self) -> float | None:
        """Returns the most resident memory since `reset_peak`; None if the process has ended."""
        return self._status_mb("VmHWM") if self.is_alive else None

    def _status_mb(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        assert found is not None, f"no {name} in /proc"
        return int(found.group(1)) / 1024


def openings_in(log: Path) -> int:
    """Returns how often a circuit breaker has opened for everyone or for the good organisation."""
    return len(_OPENED.findall(log.read_text()))


@asynccontextmanager
async def stack(
    directory: Path, checkout: Path, *, redis_delay_seconds: float | None = None, reads_log: bool = True
) -> AsyncIterator[Stack]:
    """Starts everything with files in the directory, which exists; stops it at the end.

    redis_delay_seconds: limits are in a Redis that answers so late; None: in memory. reads_log: False leaves the access
    log in a pipe without a reader.
    """
    async with AsyncExitStack() as exits:
        provider = exits.enter_context(_Provider(directory))
        redis = None
        variables = {}
        if redis_delay_seconds is not None:
            redis = exits.enter_context(own_redis())
            port = await exits.enter_async_context(delayed(redis.port, redis_delay_seconds))
            variables["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
        write_configuration(directory, provider)
        good = [_key(directory, checkout, "good", "enterprise") for _ in range(2)]
        bad = [_key(directory, checkout, "bad", "development") for _ in range(3)]
        process, url, log = _serve(directory, checkout, variables, reads_log=reads_log)
        try:
            yield Stack(url, process, log, good, bad, redis)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
            process.communicate()


class _Provider:
    """The provider in a process of its own. Entering gives its URL."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "provider.log"

    def __enter__(self) -> str:
        command = ["taskset", "-c", str(LOAD_CORE), sys.executable, "-m", "benchmarks.isolation.provider"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()


def write_configuration(directory: Path, provider: str) -> None:
    """Writes a catalog with one model at one provider: there is nowhere to fail over to."""
    price = {"input": "0.02", "output": "0.02", "as_of": "2026-11-28"}
    providers = {"hosted": {"base_url": f"{provider}/v1", "api_key_env": "HOSTED_KEY", "prices": {"fake": price}}}
    (directory / "providers.yaml").write_text(json.dumps({"providers": providers}))
    (directory / "models.yaml").write_text(
        json.dumps({"models": {"small": {"offers": [{"provider": "hosted", "model": "fake"}]}}})
    )


def _environment(directory: Path, more: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return own | {
        "CONFIG_DIR": str(directory),
        "DATA_DIR": str(directory / "data"),
        "HOSTED_KEY": "sk-of-the-provider",
        "REQUIRE_KEYS": "true",
        "SERVICE_PORT": "0",
        "RESPONSE_CACHE": "true",
        **more,
    }


def _key(directory: Path, checkout: Path, organisation: str, tier: str) -> str:
    command = [sys.executable, "-m", "vllm_service", "keys", "create", "--tier", tier, "--json", organisation]
    made = subprocess.run(
        command, cwd=checkout, env=_environment(directory, {}), check=True, stdout=subprocess.PIPE, text=True
    )
    return str(json.loads(made.stdout)["secret"])


def _serve(
    directory: Path, checkout: Path, variables: Mapping[str, str], *, reads_log: bool
) -> tuple[subprocess.Popen[bytes], str, Path]:
    log = directory / "gateway.log"
    more = dict(variables) if reads_log else {**variables, "ACCESS_LOG": "true"}
    command = ["taskset", "-c", str(GATEWAY_CORE), sys.executable, "-m", "vllm_service", "serve"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=checkout,
            env=_environment(directory, more),
            stdout=subprocess.PIPE,
            stderr=file if reads_log else subprocess.PIPE,
        )
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip().removesuffix("/v1")
    if not url:
        raise RuntimeError(f"the gateway has not started: {log.read_text()}")
    return process, url, log


@asynccontextmanager
async def delayed(port: int, seconds: float) -> AsyncIterator[int]:
    """Passes connections on to a port of this machine, each piece of an answer so much later. Yields the own port."""
    loop = asyncio.get_running_loop()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source, sink = await asyncio.open_connection("127.0.0.1", port)

        async def there() -> None:
            while data := await reader.read(65536):
                sink.write(data)
            sink.close()

        async def back() -> None:
            while data := await source.read(65536):
                loop.call_later(seconds, later, data)
            loop.call_later(seconds, writer.close)

        def later(data: bytes) -> None:
            if not writer.is_closing():
                writer.write(data)

        # A gateway that stops closes in the middle of whatever goes on.
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(there())
                tasks.create_task(back())

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
