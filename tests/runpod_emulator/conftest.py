"""An emulator, a client of it, a worker that the test plays, and the official client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import openai
import pytest

from runpod_emulator import Emulator
from tests.runpod_emulator.played_worker import SETTINGS, PlayedWorker
from tests.runpod_emulator.support import client_of


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(SETTINGS) as emulator:
        yield emulator


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(emulator) as client:
        yield client


@pytest.fixture
def worker(client: httpx.AsyncClient) -> PlayedWorker:
    return PlayedWorker(client)


@pytest.fixture
async def openai_client(emulator: Emulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=emulator.openai_url, api_key="any", max_retries=0) as client:
        yield client
