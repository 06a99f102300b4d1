"""`make serve`: all parts come up together, show spilling over, waking and saving, and go down together."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
from asyncio.subprocess import Process
from pathlib import Path

import httpx

from tests.e2e.process import START_SECONDS, start
from tests.e2e.test_openai_python_client import FRANCE, PARIS
from tests.e2e.test_playground import opened


class Output:
    """What the process has printed so far."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._text = ""

    async def has(self, pattern: str) -> re.Match[str]:
        """Returns the pattern's first match, as soon as it is printed."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_SECONDS):
                while (match := re.search(pattern, self._text)) is None:
                    piece = await self._process.stdout.read(4096)
                    assert piece, "the process has ended"
                    self._text += piece.decode()
        except (TimeoutError, AssertionError) as error:
            raise AssertionError(f"{pattern!r} was not printed, but: {self._text}") from error
        return match


async def test_one_command_shows_spill_over_a_wake_and_a_saving_and_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    process = await start("-m", "scripts.try_gateway", "--port", str(port), "--directory", str(tmp_path), variables={})
    output = Output(process)
    await output.has(f"curl {address}")
    async with httpx.AsyncClient(trust_env=False, base_url=address, timeout=60) as client:
        body = {"model": "demo-model", "messages": [{"role": "user", "content": FRANCE}], "temperature": 0}
        answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status()
        assert answer.headers["x-provider"].startswith("hosted")
        assert answer.json()["choices"][0]["message"]["content"] == PARIS
    await output.has("the hosted providers answer")
    await output.has("the gateway wakes one")
    await output.has("the worker is warm")
    saved = await output.has(r"saved \+([1-9]\d*) %")
    assert 1 <= int(saved[1]) < 100
    async with opened(f"{address}/", tmp_path / "profile") as page:
        await page.until("sums.innerText.includes('Saved') && document.querySelectorAll('#bars div div').length")
        sums = await page.value_of("sums.innerText")
        assert "own:" in await page.value_of("legend.innerText")
        # One price everywhere: the hosted providers' own bill is what the gateway counted.
        assert re.search(r"Hosted providers today\s+\$0\.0\d+", sums)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(START_SECONDS):
        rest, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert b"stopped" in rest
