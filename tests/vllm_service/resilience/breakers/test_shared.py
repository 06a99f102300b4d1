"""A probe that is not sent is given back: to its breaker at once, and to the store of all replicas."""

from __future__ import annotations

import asyncio

import pytest

from vllm_service.domain.breakers import ProbeAnswer, ProbeClaim
from vllm_service.domain.plan import Step
from vllm_service.resilience.breakers.breaker_settings import BreakerSettings
from vllm_service.resilience.breakers.shared import Breakers, SharedBreakers
from vllm_service.storage.coordination.memory import MemoryBreakers

STEP = Step("own", "llama")
SETTINGS = BreakerSettings(consecutive_failures=1)


class BrokenStore(MemoryBreakers):
    """A store whose claims end with an error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self.claimed: list[ProbeClaim] = []
        self.released: asyncio.Queue[ProbeClaim] = asyncio.Queue()

    async def claim_probe(self, claim: ProbeClaim, seconds: float) -> ProbeAnswer:
        self.claimed.append(claim)
        raise self._error

    async def release_probe(self, claim: ProbeClaim) -> None:
        self.released.put_nowait(claim)


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()], ids=["broken", "cancelled"])
async def test_a_probe_whose_claim_ends_with_an_error_is_given_back(error: BaseException) -> None:
    now = 1000.0
    store = BrokenStore(error)
    breakers = Breakers(SETTINGS)
    shared = SharedBreakers(breakers, store, lambda: now, probe_seconds=SETTINGS.probe_seconds)
    admission = await shared.admit(STEP)
    assert admission is not None
    shared.failed(STEP, admission, 500, None)
    now += SETTINGS.open_seconds
    with pytest.raises(type(error)):
        await shared.admit(STEP)
    assert breakers.allows(STEP, now)
    task = asyncio.create_task(shared.run())
    async with asyncio.timeout(20):
        assert [await store.released.get()] == store.claimed
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
