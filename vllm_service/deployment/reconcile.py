"""Carries out the steps of a deployment, so that a run that ends anywhere can be repeated and never makes a second one.

Before something is created, RunPod is asked whether it is there already. When the answer to a creation was lost, RunPod
is asked again: what was made is taken. When two runs created at the same moment, the older one stays, and the run that
made the younger one deletes it. Volumes and templates have no time of creation, and that of endpoints may be the same:
there the lower id stays, unless the other run has gone on with its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vllm_service.deployment.existing import Existing, Json, Kind, find, find_existing, id_of, sort_key
from vllm_service.deployment.steps import Action, Step, Target, steps
from vllm_service.errors import ConfigurationError, ServiceError
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

#: After a creation without an answer: when RunPod is asked for what was made. Lists may lag behind.
LOOKS_SECONDS = (0.0, 2.0, 5.0)
#: How long the run with the lower id waits for the other one to delete what it made.
SETTLING_SECONDS = 5.0
#: Creating and changing each of the kinds once, and a change that follows from another one.
MOST_STEPS = 8
OnStep = Callable[[Step, bool], None]


class Reconciliation:
    """One run. `existing` is what is known to exist at any moment, also when it fails."""

    def __init__(
        self,
        api: RestApi,
        target: Target,
        *,
        on_step: OnStep = lambda step, is_done: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._target = target
        self._on_step = on_step
        self._sleep = sleep
        self.existing = Existing()

    async def look(self) -> list[Step]:
        """Reads what exists and returns the steps that are left. Raises RestError and ConfigurationError."""
        self.existing = await find_existing(self._api, self._target.names)
        self._require_single()
        return steps(self._target, self.existing)

    async def run(self) -> Existing:
        """Carries out all steps. Raises RestError, and ConfigurationError where RunPod does not do what it answers."""
        left = await self.look()
        done: list[Step] = []
        while left:
            step = left[0]
            if len(done) == MOST_STEPS or any(_is_same(step, earlier) for earlier in done):
                raise ConfigurationError(
                    f"RunPod accepted to {step}, and it is still not so. Look at it in RunPod's console, and run this "
                    "again."
                )
            self._on_step(step, False)
            await self._carry_out(step)
            self._on_step(step, True)
            done.append(step)
            left = steps(self._target, self.existing)
        return self.existing

    async def _carry_out(self, step: Step) -> None:
        if step.action is Action.CHANGE:
            answer = await self._api.patch(f"{step.kind.path}/{step.id}", step.body)
            if id_of(answer) != step.id:  # an answer without a body, or of something else
                answer = await self._api.get(f"{step.kind.path}/{step.id}")
            self.existing = self.existing.having(step.kind, (answer,))
            return
        if not await self._take_found(step.kind):
            await self._create(step)

    async def _create(self, step: Step) -> None:
        try:
            made = await self._api.post(step.kind.path, step.body)
        except RestError as error:
            if not _may_be_carried_out(error) or not await self._found_later(step.kind):
                raise
            return
        if not id_of(made):
            raise ConfigurationError(
                f"RunPod created the {step.kind} {step.name} and answered without its id: run this again, and it is "
                "found by its name."
            )
        self.existing = self.existing.having(step.kind, (made,))
        await self._keep_oldest(step.kind, made)

    async def _found_later(self, kind: Kind) -> bool:
        """Returns whether something is there whose creation was not answered. Looks a few times."""
        for seconds in LOOKS_SECONDS:
            await self._sleep(seconds)
            try:
                if await self._take_found(kind):
                    return True
            except RestError:
                continue
        return False

    async def _take_found(self, kind: Kind) -> bool:
        found = await find(self._api, kind, self._target.names)
        self.existing = self.existing.having(kind, found)
        self._require_single()
        return bool(found)

    async def _keep_oldest(self, kind: Kind, made: Json) -> None:
        """Deletes what was just made if another run made the same before, or has gone on with what it made."""
        others = await self._others(kind, made)
        if others and _is_before(made, others[0]):
            if _is_surely_older(made, others[0]):
                return  # the other run sees this one and takes it
            await self._sleep(SETTLING_SECONDS)
            others = await self._others(kind, made)
        if others:
            await self._api.delete(f"{kind.path}/{id_of(made)}")
            self.existing = self.existing.having(kind, others[:1])

    async def _others(self, kind: Kind, made: Json) -> tuple[Json, ...]:
        """Returns what has the same name, the oldest first, without what this run has made."""
        found = await find(self._api, kind, self._target.names)
        return tuple(document for document in found if id_of(document) != id_of(made))

    def _require_single(self) -> None:
        for kind in Kind:
            found = self.existing.of(kind)
            if len(found) > 1:
                raise _several(kind, found)


def _is_before(made: Json, other: Json) -> bool:
    """Returns true for one of two: both runs have to find the same one."""
    return sort_key(made) < sort_key(other)


def _is_surely_older(made: Json, other: Json) -> bool:
    return sort_key(made)[0] < sort_key(other)[0]


def _several(kind: Kind, found: tuple[Json, ...]) -> ServiceError:
    ids = ", ".join(id_of(document) for document in found)
    return ConfigurationError(
        f"RunPod has {len(found)} of the {kind} {found[0].get('name')!r}: {ids}. Delete all but one, in RunPod's "
        "console or with `deploy destroy`, or choose another name.",
        param="name",
    )


def _may_be_carried_out(error: RestError) -> bool:
    """Returns whether the request may have had its effect although no success was answered."""
    return error.status is None or error.status >= 500


def _is_same(step: Step, earlier: Step) -> bool:
    return (step.action, step.kind, step.differences) == (earlier.action, earlier.kind, earlier.differences)
