"""Any sequence of reservations, ends, expiries and clock changes: memory, Redis and the model agree on all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.servers import RedisServer
from tests.vllm_service.storage.quotas.quota_model import QuotaModel, Share
from tests.vllm_service.storage.use import used
from vllm_service.domain.keys import ApiKey, OrganisationLimits
from vllm_service.errors import RateLimited
from vllm_service.storage.protocol import Quotas, Reservation
from vllm_service.storage.quotas.memory import MemoryQuotas
from vllm_service.storage.quotas.redis import RedisQuotas
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_pipeline import PipelineBounds

Result = TypeVar("Result")
LEASE_SECONDS, ADDRESS_LIMIT = 90.0, 5
# The dollars are beyond what a double holds exactly: 2**53 pico-dollars are $9,007.
BIG = 10**16 + 1
LIMITS = OrganisationLimits(
    tokens_per_day=1000,
    requests_per_day=250,
    tokens_per_month=1500,
    picousd_per_month=2 * BIG,
    concurrent_requests=None,
)
#: A key may have 10 requests under way, by its tier.
AT_ONCE = replace(LIMITS, concurrent_requests=15)
KEYS = [ApiKey("one", "acme", limits=LIMITS), ApiKey("two", "acme", limits=LIMITS)]
FEW_AT_ONCE = [ApiKey("one", "acme", limits=AT_ONCE), ApiKey("two", "acme", limits=AT_ONCE)]
EDGES_MS = [1, 50, 999, 1000, 1049, 1050, 59_000, 60_000, 60_999, 61_000, 89_999, 90_000]
MIDNIGHT_MS = 1_798_761_600_000  # 2027-01-01T00:00Z: a day and a month end there


@dataclass
class Pair:
    """A reservation and what the model has for it."""

    real: Reservation
    share: Share


class QuotaMachine(RuleBasedStateMachine):
    """Does at random what requests do, to limits and to the model. Subclasses open the limits, anew for each run."""

    quotas: Quotas
    #: The keys "one" and "two".
    keys = KEYS

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.model = QuotaModel(int(LEASE_SECONDS * 1000), ADDRESS_LIMIT)
        self.running: list[Pair] = []

    async def opened(self) -> Quotas:
        """Limits that are closed with `stack`."""
        raise NotImplementedError

    def model_now(self) -> QuotaModel:
        """What is over has expired: limits in memory look for that whenever they are asked."""
        self.model.expire(self.now_ms)
        return self.model

    @initialize(before_midnight_ms=st.integers(0, 100_000))
    def begin(self, before_midnight_ms: int) -> None:
        self.now_ms = MIDNIGHT_MS - before_midnight_ms
        self.quotas = self.runner.run(self.opened())

    @rule(
        number=st.sampled_from([0, 1]),
        address=st.sampled_from([None, "10.0.0.1", "10.0.0.2"]),
        tokens=st.integers(0, 400),
        picousd=st.sampled_from([0, 1, BIG - 1, BIG]),
        times=st.sampled_from([1, 1, 2, 8, 50, 101]),
    )
    def reserve(self, number: int, address: str | None, tokens: int, picousd: int, times: int) -> None:
        key = self.keys[number]
        tokens, picousd = (0, 0) if times > 2 else (tokens, picousd)
        for _ in range(times):
            share = self.model.reserve(key, address, tokens, picousd, self.now_ms)
            request = self.quotas.reserve(key, address, tokens, picousd, self.now_ms / 1000)
            if share is None:
                with pytest.raises(RateLimited):
                    self.runner.run(_awaited(request))
            else:
                self.running.append(Pair(self.runner.run(_awaited(request)), share))

    @rule(place=st.integers(0, 100), tokens=st.integers(0, 600), picousd=st.sampled_from([0, 5, BIG]))
    def settle(self, place: int, tokens: int, picousd: int) -> None:
        if self.running:
            pair = self.running.pop(place % len(self.running))
            self.model.settle(pair.share, tokens, picousd)
            self.runner.run(_awaited(pair.real.settle(tokens, picousd)))

    @rule(place=st.integers(0, 100))
    def release(self, place: int) -> None:
        if self.running:
            pair = self.running.pop(place % len(self.running))
            self.model.release(pair.share)
            self.runner.run(_awaited(pair.real.release()))

    @rule(by_ms=st.one_of(st.sampled_from(EDGES_MS), st.integers(0, 2_000), st.integers(-70_000, 100_000)))
    def pass_time(self, by_ms: int) -> None:
        self.now_ms += by_ms

    @invariant()
    def use_is_the_models(self) -> None:
        if hasattr(self, "quotas"):
            real = self.runner.run(used(self.quotas, "acme", self.now_ms / 1000))
            assert real == self.model_now().used(self.now_ms)

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


async def _awaited(work: Awaitable[Result]) -> Result:
    return await work


def checked(machine: type[RuleBasedStateMachine], examples: int) -> None:
    options = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=options)


@pytest.mark.parametrize("of_caller", [KEYS, FEW_AT_ONCE], ids=["any number at once", "few at once"])
def test_limits_in_memory_do_what_the_model_does(of_caller: list[ApiKey]) -> None:
    class InMemory(QuotaMachine):
        keys = of_caller

        async def opened(self) -> Quotas:
            return MemoryQuotas(lease_seconds=LEASE_SECONDS, address_limit=ADDRESS_LIMIT, sweep_seconds=10**9)

    checked(InMemory, 200)


@pytest.mark.parametrize("of_caller", [KEYS, FEW_AT_ONCE], ids=["any number at once", "few at once"])
def test_limits_in_redis_do_what_the_model_does(redis_server: RedisServer, of_caller: list[ApiKey]) -> None:
    class InRedis(QuotaMachine):
        keys = of_caller

        async def opened(self) -> Quotas:
            redis_server.empty()
            link = RedisLink(redis_server.url, PipelineBounds(silence_seconds=30))
            self.stack.push_async_callback(link.close)
            return RedisQuotas(
                link,
                lease_seconds=LEASE_SECONDS,
                address_limit=ADDRESS_LIMIT,
                uses_server_clock=False,
                end_seconds=60,
            )

        def model_now(self) -> QuotaModel:
            """Leases are taken back at the next reservation: if the clock goes back before, they have not expired."""
            model = deepcopy(self.model)
            model.expire(self.now_ms)
            return model

    checked(InRedis, 40)
