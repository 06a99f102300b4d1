"""One endpoint of an account: its configuration and releases, its state, its workers, and the loop that keeps them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from runpod_emulator.account.configuration import EndpointConfig, FieldChange, ReleaseRecord, differences
from runpod_emulator.balancer.balancer import LoadBalancer
from runpod_emulator.endpoint.release import Release
from runpod_emulator.endpoint.state import Endpoint
from runpod_emulator.workers.fleet import Fleet, WorkerCommand

logger = logging.getLogger(__name__)


class ServerlessEndpoint:
    """An endpoint from its creation to its deletion."""

    def __init__(self, config: EndpointConfig, state: Endpoint) -> None:
        self.config = config
        self.state = state
        self.created_at = datetime.now(UTC)
        #: None until start(), and where the emulator starts no workers.
        self.fleet: Fleet | None = None
        #: None until start(), and where the endpoint has a queue.
        self.balancer: LoadBalancer | None = None
        #: The latest last.
        self.releases: list[ReleaseRecord] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._release(config, ())

    @property
    def id(self) -> str:
        """Returns the endpoint's id."""
        return self.state.settings.endpoint_id

    @property
    def version(self) -> int:
        """Returns the version of the latest release."""
        return self.state.registry.release.version

    def configure(self, config: EndpointConfig) -> None:
        """Replaces the configuration; a change of the container makes a new release."""
        changes = differences(self.config, config)
        self.config = config
        if changes:
            self._release(config, changes)

    def start(self, command: WorkerCommand | None, origin: str, terminal: Callable[[bytes], object]) -> None:
        """Begins to start, stop and look after workers. Needs a running event loop.

        terminal: takes the output of workers that have no log file.
        """
        if command:
            self.fleet = Fleet(self.state, command, origin, terminal)
            if self.state.settings.is_balanced:
                self.balancer = LoadBalancer(self.state, self.fleet)
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """Stops the workers, and waits for their ends."""
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self.state.close()
        if self.balancer:
            await self.balancer.close()
        if self.fleet:
            await self.fleet.close()
        if self.balancer:
            await self.balancer.stop()
        for worker in self.state.registry.alive():
            self.state.registry.end(worker, None)
        for worker in self.state.registry.throttled():
            self.state.registry.drop(worker)

    def _release(self, config: EndpointConfig, changes: tuple[FieldChange, ...]) -> None:
        version = len(self.releases) + 1
        self.releases.append(ReleaseRecord(secrets.token_hex(5), version, datetime.now(UTC), changes))
        self.state.roll_out(Release(version, config.container.image, config.container.disk_gb, config.container.env))

    async def _supervise(self) -> None:
        due = 0.0
        tick_seconds = self.state.settings.tick_seconds
        while True:
            try:
                if time.monotonic() >= due:
                    due = time.monotonic() + tick_seconds
                    self.state.housekeep()
                if self.fleet:
                    self.fleet.reconcile()
                if self.balancer:
                    self.balancer.look_after()
            except Exception:
                # Without it no worker is started or stopped any more: it must outlive its errors.
                logger.exception("the supervisor of endpoint %s failed in this round and continues", self.id)
            await self.state.changed.wait(tick_seconds)
