"""Programs of an application that use clients in loops, threads and forks, and the server that they ask."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from tests.vllm_service.client.runpod_provider import runpod
from tests.vllm_service.client.subprocesses import run_program
from vllm_service.testing import Pause, ReceivedRequest, Reply, ScriptedProvider, says, whole

SECRET = "sk-secret"
HEAD = """
import asyncio, os, sys, threading, traceback
import httpx2
from vllm_service import LLMRouter, RunPodVLLMService, RunPodVLLMServiceSync, ServiceError
from vllm_service.domain.pricing import SecondPrice, TokenPrice
from vllm_service.catalog.model import Catalog, Offer, Provider, ProviderKind, PublicModel

URL = {url!r}

def service(**options):
    return RunPodVLLMService(api_key="sk-secret", base_url=URL, default_model="m", **options)

def router():
    own = Provider("own", ProviderKind.RUNPOD, URL, "sk-secret", control_url=URL.removesuffix("/openai/v1"),
                   second_price=SecondPrice.per_second("0.0002"))
    return LLMRouter("QUALITY", Catalog({{"own": own}}, {{"m": PublicModel("m", (Offer("own", "m"),))}}))

def refused(work):
    try:
        print("worked:", work())
    except ServiceError as error:
        print(type(error).__name__, error)

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def forked(work):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            sys.stdout.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"

async def read(stream):
    return "".join([text async for text in stream])
"""


def reply(request: ReceivedRequest) -> Reply:
    """A platform and an engine: what is asked comes back; "cut" is a stream that does not go on."""
    if request.target.endswith("/health"):
        return whole({"jobs": {}, "workers": {"idle": 1}})
    if request.method == "GET" or request.target.endswith("/run"):
        return whole({"id": "j", "status": "COMPLETED", "output": "done"})
    text = request.last_text
    reply = says(*text)(request)
    return Reply((*reply.actions[:-3], Pause(None))) if request.is_stream and text == "cut" else reply


async def printed(program: str, directory: Path) -> tuple[Sequence[str], ScriptedProvider]:
    async with runpod(reply) as server:
        code = HEAD.format(url=server.url) + textwrap.dedent(program)
        lines = (await run_program(code, directory)).splitlines()
    assert SECRET not in "".join(lines)
    return lines, server
