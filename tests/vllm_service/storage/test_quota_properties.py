"""Any sequence of reservations, ends, expiries and clock changes: memory, Redis and the model agree on all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.servers import RedisServer
from tests.vllm_service.storage.quota_model import QuotaModel, Share
from vllm_service.domain.keys import ApiKey, OrganisationLimits
from vllm_service.errors import RateLimited
from vllm_service.storage.memory_quotas import MemoryQuotas
from vllm_service.storage.protocol import Quotas, Reservation
from vllm_service.storage.redis_link import RedisLink
from vllm_service.storage.redis_quotas import RedisQuotas

Result = TypeVar("Result")
LEASE_SECONDS, ADDRESS_LIMIT = 90.0, 5
# The dollars are beyond what a double holds exactly: 2**53 pico-dollars are $9,007.
BIG = 10**16 + 1
LIMITS = OrganisationLimits(tokens_per_day=1000, requests_per_day=250, tokens_per_month=1500, picousd_per_month=2 * BIG)
KEYS = [ApiKey("one", "acme", limits=LIMITS), ApiKey("two", "acme", limits=LIMITS)]
EDGES_MS = [1, 50, 999, 1000, 1049, 1050, 59_000, 60_000, 60_999, 61_000, 89_999, 90_000]
MIDNIGHT_MS = 1_798_761_600_000  # 2027-01-01T00:00Z: a day and a month end there


@dataclass
class Pair:
    """A reservation and what the model has for it."""

    real: Reservation
    share: Share


def machine(open_quotas: Callable[[AsyncExitStack], Quotas]) -> type[RuleBasedStateMachine]:  # noqa: C901 - one rule each
    """The state machine over quotas that are made by `open_quotas`, anew for each run."""

    class QuotaMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.stack = AsyncExitStack()
            self.model = QuotaModel(int(LEASE_SECONDS * 1000), ADDRESS_LIMIT)
            self.running: list[Pair] = []

        @initialize(before_midnight_ms=st.integers(0, 100_000))
        def begin(self, before_midnight_ms: int) -> None:
            self.now_ms = MIDNIGHT_MS - before_midnight_ms
            self.quotas = self.runner.run(self._open())

        async def _open(self) -> Quotas:
            return open_quotas(self.stack)

        @rule(
            key=st.sampled_from(KEYS),
            address=st.sampled_from([None, "10.0.0.1", "10.0.0.2"]),
            tokens=st.integers(0, 400),
            picousd=st.sampled_from([0, 1, BIG - 1, BIG]),
            times=st.sampled_from([1, 1, 2, 50, 101]),
        )
        def reserve(self, key: ApiKey, address: str | None, tokens: int, picousd: int, times: int) -> None:
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
                self.model.expire(self.now_ms)
                real = self.runner.run(_awaited(self.quotas.used("acme", self.now_ms / 1000)))
                assert real == self.model.used(self.now_ms)

        def teardown(self) -> None:
            self.runner.run(self.stack.aclose())
            self.runner.close()

    return QuotaMachine


async def _awaited(work: Awaitable[Result]) -> Result:
    return await work


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_limits_do_what_the_model_does(kind: str, request: pytest.FixtureRequest) -> None:
    def in_memory(stack: AsyncExitStack) -> Quotas:
        return MemoryQuotas(lease_seconds=LEASE_SECONDS, address_limit=ADDRESS_LIMIT, sweep_seconds=10**9)

    def in_redis(stack: AsyncExitStack) -> Quotas:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.empty()
        link = RedisLink(server.url, timeout_seconds=30)
        stack.push_async_callback(link.close)
        return RedisQuotas(link, lease_seconds=LEASE_SECONDS, address_limit=ADDRESS_LIMIT, uses_server_clock=False)

    opened = {"memory": in_memory, "redis": in_redis}[kind]
    count = {"memory": 200, "redis": 40}[kind]
    options = settings(
        max_examples=count, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine(opened), settings=options)
