"""A log that is not read stops nothing: requests are answered, SIGTERM ends the process, lost lines are counted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.gateway import configure, variables_of
from tests.e2e.process import START_SECONDS
from tests.unread import fill
from tests.waiting import until, until_seen
from vllm_service.logs import LogHandler, LogWriter

ROOT = Path(__file__).resolve().parents[2]
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 29\r\n\r\n"
    b'{"model":"no","messages":[] }'
)
#: Each leaves a line of about 250 bytes, so that a pipe of 64 KiB is full after 260 of them.
CONNECTIONS, REQUESTS_EACH = 10, 200


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)
    os.close(reading)


def drained(descriptor: int, until_ends_with: bytes) -> bytes:
    found = b""
    while not found.endswith(until_ends_with):
        found += os.read(descriptor, 65536)
    return found


async def requests_over_one_connection(host: str, port: int) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    answered = 0
    for _ in range(REQUESTS_EACH):
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        await reader.readexactly(length)
        answered += head.startswith(b"HTTP/1.1 404")
    writer.close()
    return answered


async def test_a_gateway_whose_stderr_is_not_read_answers_and_stops(tmp_path: Path, pipe: tuple[int, int]) -> None:
    configure(
        tmp_path, {"p": {"base_url": "http://127.0.0.1:9/v1"}}, {"m": {"offers": [{"provider": "p", "model": "m"}]}}
    )
    variables = variables_of(tmp_path, ACCESS_LOG="true", REQUESTS_PER_SECOND_PER_IP="100000")
    with subprocess.Popen(
        [sys.executable, "-m", "vllm_service", "serve"],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=pipe[1],
    ) as process:
        assert process.stdout is not None
        try:
            url = (await asyncio.to_thread(process.stdout.readline)).decode().strip()
            at = urlsplit(url)
            assert at.hostname is not None
            assert at.port is not None
            async with asyncio.timeout(START_SECONDS):
                calls = [requests_over_one_connection(at.hostname, at.port) for _ in range(CONNECTIONS)]
                assert sum(await asyncio.gather(*calls)) == CONNECTIONS * REQUESTS_EACH
                async with httpx.AsyncClient(trust_env=False) as client:
                    shown = (await client.get(f"http://{at.hostname}:{at.port}/metrics")).text
            waiting = [line for line in shown.splitlines() if line.startswith("vllm_log_waiting_bytes ")]
            assert float(waiting[0].split()[1]) > 0
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, START_SECONDS) == 0
        finally:
            process.kill()


def test_lines_beyond_the_bound_are_dropped_counted_and_reported_when_they_are_read_again(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    fill(writing)
    writer = LogWriter(writing, most_bytes=100)
    for number in range(30):
        writer.put(b"%09d\n" % number)
    # 11 lines are more than 100 bytes.
    assert writer.dropped == 19
    assert writer.status().dropped == 19
    found = drained(reading, b"dropped\n").lstrip(b"x").splitlines()
    assert found == [*(b"%09d" % number for number in range(11)), b"19 lines of the log were dropped"]


def test_the_report_of_dropped_lines_has_the_form_of_the_log() -> None:
    handler = LogHandler(LogWriter(2))
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    assert handler.dropped_lines(3) == (
        b"WARNING vllm_service.logs: 3 lines of the log were dropped: stderr was not read fast enough\n"
    )


def test_a_flush_waits_for_the_last_lines_but_not_for_a_reader_that_stopped(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing)
    assert writer.flush()  # nothing was ever written
    writer.put(b"last\n")
    assert writer.flush()
    assert os.read(reading, 100) == b"last\n"
    fill(writing)
    writer.put(b"lost\n")
    assert not writer.flush(0.05)
    assert not writer.flush(60)  # nothing has moved since: it does not wait again
    drained(reading, b"lost\n")


async def test_a_reader_that_is_gone_costs_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing)
    writer.put(b"one\ntwo\n")
    await until(lambda: writer.dropped == 2)
    assert writer.flush()
    os.close(writing)


def test_lines_are_whole_and_in_order_whatever_many_threads_write(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing)

    def write(name: int) -> None:
        for number in range(200):
            writer.put(b"%d:%d:%b\n" % (name, number, b"y" * (50 * (number % 4))))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    found = b""
    while found.count(b"\n") < 600:
        found += os.read(reading, 65536)
    for name in range(3):
        own = [line.split(b":") for line in found.splitlines() if line.startswith(b"%d:" % name)]
        assert [int(line[1]) for line in own] == list(range(200))
        assert all(line[2] == b"y" * (50 * (int(line[1]) % 4)) for line in own)


def test_a_forked_process_writes_its_own_lines_and_none_of_its_parents() -> None:
    code = (
        "from vllm_service.logs import LogWriter; import os, sys\n"
        "writer = LogWriter(1)\n"
        "writer.put(b'parent\\n'); writer.flush()\n"
        "if os.fork() == 0:\n"
        "    writer.put(b'child\\n'); writer.flush(); os._exit(0)\n"
        "os.wait(); writer.put(b'parent again\\n'); writer.flush()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "parent\nchild\nparent again\n"


def test_a_traceback_of_a_start_that_failed_is_not_lost(tmp_path: Path) -> None:
    code = (
        "from vllm_service import logs; import logging, sys, warnings\n"
        "logs.configure('INFO', 'text')\n"
        "logging.info('first'); warnings.warn('second'); print('third', file=sys.stderr)\n"
        "raise RuntimeError('fourth')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    places = [ended.stderr.index(word) for word in ("first", "second", "third", "Traceback", "RuntimeError: fourth")]
    assert places == sorted(places)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
async def test_a_gateway_whose_standard_streams_are_closed_serves_and_stops(tmp_path: Path, closed: str) -> None:
    configure(
        tmp_path, {"p": {"base_url": "http://127.0.0.1:9/v1"}}, {"m": {"offers": [{"provider": "p", "model": "m"}]}}
    )
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    command = f'exec "{sys.executable}" -m vllm_service serve {closed}'
    variables = variables_of(tmp_path) | {"SERVICE_PORT": str(port)}
    with subprocess.Popen(["sh", "-c", command], cwd=ROOT, env={**os.environ, **variables}) as process:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:

                async def is_alive() -> bool:
                    assert process.poll() is None
                    try:
                        return (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
                    except httpx.ConnectError:
                        return False

                await until_seen(is_alive)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, START_SECONDS) == 0
        finally:
            process.kill()
