"""The gateways that are compared: each is installed, configured as its documentation recommends, started, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from vllm_service import __version__
from vllm_service.domain.keys import OrganisationLimits, Tier
from vllm_service.storage.keys.sql import KeyStore
from vllm_service.storage.open import open_database

ENVIRONMENTS = Path("build/bench")
MASTER_KEY = "sk-benchmark"
#: So many, because each may make 10,000 requests a minute.
KEYS = 256

NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  upstream provider {{ server {address}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    client_body_buffer_size 64k;
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer sk-of-the-provider";
      proxy_buffering off;
    }}
  }}
}}
"""
LITELLM = """
model_list:
  - model_name: small
    litellm_params: {{model: openai/fake, api_base: "{upstream}/v1", api_key: sk-of-the-provider}}
litellm_settings: {{set_verbose: false, request_timeout: 600, telemetry: false}}
general_settings: {{master_key: {key}, proxy_batch_write_at: 60}}
"""


@dataclass(frozen=True)
class Peer:
    """A gateway that can be started."""

    name: str
    version: str
    command: list[str]
    port: int
    #: The keys that it accepts.
    keys: list[str]
    environment: dict[str, str]

    @property
    def url(self) -> str:
        """Returns its URL without /v1."""
        return f"http://127.0.0.1:{self.port}"


class Started:
    """A running gateway, pinned to one core."""

    def __init__(self, peer: Peer, core: int, log: Path) -> None:
        self.peer = peer
        self.begun = time.perf_counter()
        self.start_seconds = 0.0
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(core), *peer.command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **peer.environment},
            )
        self._log = log

    def _processes(self) -> list[psutil.Process]:
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    @property
    def cpu_seconds(self) -> float:
        """Returns the user and system time of all its processes."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    @property
    def rss_mb(self) -> float:
        """Returns the resident memory of all its processes."""
        return sum(process.memory_info().rss for process in self._processes()) / 1e6

    async def until_answering(self, ask: Callable[[], asyncio.Future[object]], within_seconds: float = 120) -> None:
        """Sends requests until one is answered, and sets `start_seconds`. Raises RuntimeError if it takes too long."""
        while True:
            if self._process.poll() is not None or time.perf_counter() - self.begun > within_seconds:
                raise RuntimeError(f"{self.peer.name} did not start: {self._log.read_text()[-2000:]}")
            try:
                await ask()
            except (OSError, RuntimeError):
                await asyncio.sleep(0.01)
            else:
                self.start_seconds = time.perf_counter() - self.begun
                return

    def stop(self) -> None:
        """Sends SIGTERM, and SIGKILL 5 s later."""
        processes = self._processes()
        self._process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=5)
        for process in alive:
            process.kill()


async def ours(upstream: str, port: int, directory: Path) -> Peer:
    """Returns this repository's gateway, with keys in its SQLite file."""
    database = await open_database(None, directory)
    store = KeyStore(database)
    await store.set_limits("bench", OrganisationLimits(None, None, None, None))
    keys = [(await store.create("bench", Tier.ENTERPRISE))[1] for _ in range(KEYS)]
    await database.close()
    command = [sys.executable, "-m", "benchmarks.gateway_process", "--upstream", upstream, "--port", str(port)]
    return Peer("gateway", __version__, [*command, "--data-dir", str(directory)], port, keys, {})


def nginx(upstream: str, port: int, directory: Path) -> Peer:
    """Returns nginx as a plain reverse proxy with kept connections, from the distribution's packages."""
    binary = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        subprocess.run(["apt-get", "install", "-y", "-q", "nginx-light"], check=True, stdout=subprocess.DEVNULL)
        binary = "/usr/sbin/nginx"
    address = upstream.removeprefix("http://")
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, address=address, port=port))
    version = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr
    command = [binary, "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    return Peer("nginx", version.strip().rpartition("/")[2], command, port, [MASTER_KEY], {})


def vllm_router(upstream: str, port: int, directory: Path) -> Peer:
    """Returns vLLM's router in Rust."""
    python = _environment("vllm-router", "vllm-router")
    command = [str(python.with_name("vllm-router")), "--worker-urls", upstream, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--policy", "round_robin", "--log-level", "error"]
    return Peer("vllm-router", _version(python, "vllm-router"), command, port, [MASTER_KEY], {})


def litellm(upstream: str, port: int, directory: Path) -> Peer:
    """Returns LiteLLM's proxy with its documented settings for production, without a database."""
    python = _environment("litellm", "litellm[proxy]")
    config = directory / "litellm.yaml"
    config.write_text(LITELLM.format(upstream=upstream, key=MASTER_KEY))
    command = [str(python.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "NO_DOCS": "True",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    return Peer(
        "litellm", _version(python, "litellm"), [*command, "--num_workers", "1"], port, [MASTER_KEY], environment
    )


def _environment(name: str, requirement: str) -> Path:
    """Returns the Python of a virtual environment with the requirement, which is made if it does not exist."""
    python = (ENVIRONMENTS / name / "bin" / "python").absolute()
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENTS / name)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", requirement], check=True)
    return python


def _version(python: Path, package: str) -> str:
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True,
        check=True,
    ).stdout
    return next(str(entry["version"]) for entry in json.loads(listed) if entry["name"] == package)
