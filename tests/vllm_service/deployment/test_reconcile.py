"""From nothing to what is wanted, on the emulator; ended at every request and run again, it ends the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from runpod_emulator import Emulator, Faults
from tests.contract.rest_contract import checked
from tests.vllm_service.deployment.deployed import (
    FIRST,
    KEY,
    NAMES,
    DyingSend,
    Killed,
    OvertakenSend,
    api_of,
    held,
    no_sleep,
    target,
)
from vllm_service.deployment.destruction import destroy, find_doomed
from vllm_service.deployment.existing import Existing, Kind, find_existing, id_of
from vllm_service.deployment.reconcile import Reconciliation
from vllm_service.deployment.spec import ContainerForm, EndpointType, Scaler, ScalerKind, VolumeSpec
from vllm_service.deployment.steps import Step, Target
from vllm_service.errors import ConfigurationError, ServiceError
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError

ALL = (["demo"], ["demo"], ["demo"])
ANOTHER = {
    "name": "demo",
    "type": "QUEUE",
    "image": "you/worker:1",
    "gpu": {"pools": ["ADA_24"]},
    "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
}
BY_COUNT = Scaler(ScalerKind.REQUEST_COUNT, Decimal(8))
NOTHING: tuple[list[str], ...] = ([], [], [])


async def applied(api: RestApi, wanted: Target) -> tuple[Existing, list[str]]:
    """What exists after a run, and its steps."""
    done: list[str] = []

    def note(step: Step, is_done: bool) -> None:
        if is_done:
            done.append(str(step))

    return await Reconciliation(api, wanted, on_step=note, sleep=no_sleep).run(), done


async def destroyed(api: RestApi, *, with_volumes: bool = True) -> None:
    _, doomed = await find_doomed(api, NAMES, with_volumes=with_volumes)
    await destroy(api, doomed, lambda kind, found: None, no_sleep)


async def test_everything_is_made_once_and_goes_again() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        existing, done = await applied(api, target())
        assert done == ["create network volume demo", "create template demo", "create endpoint demo"]
        assert held(emulator) == ALL
        assert existing.endpoint is not None
        assert existing.volume is not None
        assert existing.endpoint["networkVolumes"] == [id_of(existing.volume)]
        assert existing.endpoint["env"]["DEPLOYMENT_NAME"] == "demo"
        assert (await applied(api, target()))[1] == []
        await destroyed(api, with_volumes=False)
        assert held(emulator) == (["demo"], [], [])
        await destroyed(api)
        assert held(emulator) == NOTHING
        assert list(emulator.account.endpoints) == ["first"]
        await destroyed(api)


WORKERS = {"workers": {"min": 0, "max": 5, "idleTimeout": 10}}
CHANGES: list[tuple[str, dict[str, Any], list[str], dict[str, Any]]] = [
    ("workers", {"workers_max": 5}, ["change endpoint demo (workers.max)"], WORKERS),
    ("volume", {"volume": VolumeSpec("demo", 30)}, ["change network volume demo (size)"], {}),
    (
        "variable",
        {"context_length": 99},
        ["change template demo (env.MAX_MODEL_LEN)", "change endpoint demo (env.MAX_MODEL_LEN)"],
        {},
    ),
    ("image", {"image": "you/worker:2"}, ["change template demo (image)", "change endpoint demo (image)"], {}),
    (
        "scaler",
        {"scaler": BY_COUNT, "idle_timeout_seconds": None},
        ["change endpoint demo (scaling.type, scaling.requestCount)"],
        {"scaling": {"type": "REQUEST_COUNT", "requestCount": 8}},
    ),
    (
        "gpus",
        {"gpus_per_worker": 2},
        [
            "change template demo (env.TENSOR_PARALLEL_SIZE)",
            "change endpoint demo (env.TENSOR_PARALLEL_SIZE, gpu.count)",
        ],
        {},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "steps", "shown"), [change[1:] for change in CHANGES], ids=[c[0] for c in CHANGES])
async def test_what_differs_is_changed_and_nothing_else(
    fields: dict[str, Any], steps: list[str], shown: dict[str, Any]
) -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        before, _ = await applied(api, target())
        after, done = await applied(api, target(**fields))
        assert done == steps
        assert before.endpoint is not None
        assert after.endpoint is not None
        assert id_of(after.endpoint) == id_of(before.endpoint)
        assert {name: after.endpoint[name] for name in shown} == shown
        assert (await applied(api, target(**fields)))[1] == []


async def test_an_endpoint_that_was_scaled_down_gets_its_workers_back() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        existing, _ = await applied(api, target())
        assert existing.endpoint is not None
        await api.patch(f"/v2/serverless/{id_of(existing.endpoint)}", {"workers": {"max": 0}})
        existing, done = await applied(api, target())
        assert done == ["change endpoint demo (workers.max)"]
        assert existing.endpoint is not None
        assert existing.endpoint["workers"]["max"] == 3


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {
                "endpoint_type": EndpointType.LOAD_BALANCER,
                "scaler": BY_COUNT,
            },
            "type QUEUE, which RunPod cannot change",
        ),
        ({"volume": VolumeSpec("demo", 10)}, "RunPod cannot make it smaller: write network_volume_gb: 20"),
    ],
)
async def test_what_cannot_be_changed_is_refused_and_stays(fields: dict[str, Any], reason: str) -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        before, _ = await applied(api, target(container=ContainerForm.INLINE))
        with pytest.raises(ConfigurationError, match=reason):
            await applied(api, target(**{"container": ContainerForm.INLINE, **fields}))
        assert await find_existing(api, NAMES) == before


async def requests_of_a_run() -> int:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        counting = DyingSend(http, -1, is_sent=True)
        await applied(api_of(emulator, counting), target())
        await destroyed(api_of(emulator, counting))
        return len(counting.passed)


@pytest.mark.parametrize("is_sent", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("end", [Killed, OSError], ids=["killed", "lost"])
async def test_ended_at_every_request_and_run_again_it_ends_the_same(is_sent: bool, end: type[BaseException]) -> None:
    """Applied and destroyed; each of the requests is once the last one, before it is sent or before its answer."""
    total = await requests_of_a_run()
    assert total >= 15
    for last in range(total):
        async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
            dying = api_of(emulator, DyingSend(http, last, is_sent, end))
            try:
                await applied(dying, target())
                await destroyed(dying)
            except (Killed, ServiceError):
                pass
            api = api_of(emulator, http)
            existing, _ = await applied(api, target())
            assert held(emulator) == ALL, f"request {last}"
            assert (await applied(api, target()))[1] == []
            assert existing == await find_existing(api, NAMES)
            await destroyed(api)
            assert held(emulator) == NOTHING, f"request {last}"


@pytest.mark.parametrize("last", [0, 1, 2], ids=["volume", "template", "endpoint"])
async def test_a_creation_whose_answer_is_lost_is_found_and_the_run_goes_on(last: int) -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        lossy = DyingSend(http, last, is_sent=True, end=OSError, methods=("POST",))
        existing, done = await applied(api_of(emulator, lossy), target())
        assert len(done) == 3
        assert held(emulator) == ALL
        assert all(len(existing.of(kind)) == 1 for kind in Kind)


async def test_a_creation_that_was_never_carried_out_is_not_repeated_blindly() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        lossy = DyingSend(http, 2, is_sent=False, end=OSError, methods=("POST",))
        with pytest.raises(RestError, match="it may have been carried out"):
            await applied(api_of(emulator, lossy), target())
        assert held(emulator) == (["demo"], ["demo"], [])


async def test_two_runs_at_the_same_moment_leave_one_of_each() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        runs = [applied(api_of(emulator, http), target()) for _ in range(2)]
        await asyncio.gather(*runs, return_exceptions=True)
        api = api_of(emulator, http)
        await applied(api, target())
        assert held(emulator) == ALL


@pytest.mark.parametrize("methods_before", range(3), ids=["volume", "template", "endpoint"])
async def test_a_run_that_is_overtaken_before_a_creation_leaves_one_of_each(methods_before: int) -> None:
    """Ids are by chance, and only endpoints have a time: whichever run has the lower id, nothing is there twice."""
    for _ in range(6):
        async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
            api = api_of(emulator, http)
            overtaken = OvertakenSend(http, methods_before, partial(applied, api, target()))
            await applied(api_of(emulator, overtaken), target())
            assert held(emulator) == ALL
            assert (await applied(api, target()))[1] == []


async def test_volumes_of_other_data_centers_stay() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        await applied(api, target())
        other = await api.post("/v2/network-volumes", {"name": "demo", "size": 10, "dataCenter": "US-KS-2"})
        await destroyed(api)
        assert held(emulator) == (["demo", "demo"], [], []), "of two of a name none goes"
        _, doomed = await find_doomed(api, replace(NAMES, data_center="EU-RO-1"), with_volumes=True)
        await destroy(api, doomed, lambda kind, found: None, no_sleep)
        assert [volume.id for volume in emulator.account.volumes.existing] == [id_of(other)]


async def test_what_somebody_else_made_is_neither_changed_nor_deleted() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        await api.post("/v2/serverless", {**ANOTHER, "env": {"DEPLOYMENT_NAME": "other"}})
        before = held(emulator)
        for attempt in (applied(api, target()), destroyed(api)):
            with pytest.raises(ConfigurationError, match="that this command did not make"):
                await attempt
        assert held(emulator) == before


async def test_two_of_a_name_are_refused_with_their_ids_and_both_destroyed() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        existing, _ = await applied(api, target(container=ContainerForm.INLINE))
        assert existing.endpoint is not None
        second = await api.post("/v2/serverless", {**ANOTHER, "env": {"DEPLOYMENT_NAME": "demo"}})
        with pytest.raises(ConfigurationError, match=f"has 2 of the endpoint 'demo': .*{id_of(second)}"):
            await applied(api, target(container=ContainerForm.INLINE))
        await destroyed(api)
        assert held(emulator) == NOTHING


async def test_a_volume_that_another_endpoint_mounts_stays() -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        api = api_of(emulator, checked(http))
        await applied(api, target())
        await applied(api, target(name="other", container=ContainerForm.INLINE))
        _, doomed = await find_doomed(api, NAMES, with_volumes=True)
        assert [reason for _, reason in doomed.staying] == [f"used by the endpoint {doomed.staying[0][1].split()[-1]}"]
        await destroyed(api)
        assert held(emulator) == (["demo"], [], ["other"])


@pytest.mark.parametrize("status", ["401", "403", "409", "422", "429", "500", "html"])
async def test_a_refusal_ends_the_run_without_a_secret_and_with_nothing_half_known(status: str) -> None:
    async with Emulator(FIRST, rest_quotas={}) as emulator, open_send() as http:
        emulator.inject(Faults(rest=status, rest_on="POST /v2/serverless"))
        wanted = target(KEY)
        with pytest.raises(ServiceError) as refused:
            await applied(api_of(emulator, http), wanted)
        assert KEY not in refused.value.message
        emulator.inject(Faults())
        await applied(api_of(emulator, http), wanted)
        assert held(emulator) == ALL
