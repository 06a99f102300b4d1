"""Our own requests of REST v2, and the answers that we read, are as published; every error answer names its remedy."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings, Faults
from runpod_emulator.api.rest.faults import RETRY_AFTER_SECONDS
from tests.contract.rest_contract import check_request, checked, checked_emulator
from vllm_service.catalog.model import Management, Provider, ProviderKind
from vllm_service.deployment.desired import endpoint_body, template_body, volume_body
from vllm_service.deployment.spec import DeploymentSpec, EndpointType, Scaler, ScalerKind, VolumeSpec
from vllm_service.domain.bill import BillPart, parts_per_day
from vllm_service.errors import UpstreamFailed
from vllm_service.runpod.billing import BillQuery, fetch_bill
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.management import RunPodManagement
from vllm_service.runpod.rest_api import RestApi
from vllm_service.runpod.rest_errors import RestError
from vllm_service.runpod.workers import WorkerStatus, parse_workers

KEY = "rpa_key_of_the_test"
SETTINGS = EndpointSettings(api_key=KEY, max_workers=3)
SPEC = DeploymentSpec("chat", "org/name", "you/worker:1", idle_timeout_seconds=10)
BY_COUNT = Scaler(ScalerKind.REQUEST_COUNT, Decimal(8))
VOLUME = VolumeSpec("models", 100)
SPECS = {
    "least": SPEC,
    "disk": DeploymentSpec("chat", "org/name", "you/worker:1", idle_timeout_seconds=10, disk_gb=40, registry_id="r1"),
    "gpus": DeploymentSpec(
        "chat", "org/name", "you/worker:1", idle_timeout_seconds=10, gpus_per_worker=2, min_cuda_version="13.0"
    ),
    "delay": DeploymentSpec(
        *("chat", "org/name", "you/worker:1"),
        idle_timeout_seconds=10,
        scaler=Scaler(ScalerKind.QUEUE_DELAY, Decimal("2.5")),
    ),
    "count": DeploymentSpec("chat", "org/name", "you/worker:1", scaler=BY_COUNT),
    "balanced": DeploymentSpec(
        *("chat", "org/name", "you/worker:1"),
        idle_timeout_seconds=10,
        scaler=BY_COUNT,
        endpoint_type=EndpointType.LOAD_BALANCER,
    ),
    "volume": DeploymentSpec(
        "chat", "org/name", "you/worker:1", idle_timeout_seconds=10, volume=VOLUME, data_center="EU-RO-1"
    ),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_what_a_deployment_creates_and_changes_is_as_published(spec: DeploymentSpec) -> None:
    volume_id = None if spec.volume is None else "v1"
    inline = endpoint_body(spec, ["ADA_24", "AMPERE_24"], {"A": "b"}, volume_id=volume_id)
    from_template = endpoint_body(spec, ["ADA_24"], {"A": "b"}, volume_id=volume_id, template_id="t1")
    check_request("POST", "/v2/serverless", "", json.dumps(inline).encode())
    check_request("POST", "/v2/serverless", "", json.dumps(from_template).encode())
    check_request("POST", "/v2/templates", "", json.dumps(template_body(spec, {"A": "b"})).encode())
    if spec.volume is not None:
        check_request("POST", "/v2/network-volumes", "", json.dumps(volume_body(spec)).encode())


def api_of(emulator: Emulator, send: Any, key: str = KEY, **settings: Any) -> RestApi:
    return RestApi(emulator.origin, key, checked(send), **{"longest_wait_seconds": 0.0} | settings)


async def test_a_deployments_objects_are_made_listed_and_removed() -> None:
    async with checked_emulator(SETTINGS, ours=True) as (emulator, recorded), open_send() as send:
        api = api_of(emulator, send)
        spec = SPECS["volume"]
        volume = await api.post("/v2/network-volumes", volume_body(spec))
        template = await api.post("/v2/templates", template_body(spec, {"A": "b"}))
        body = endpoint_body(spec, ["ADA_24"], {}, volume_id=volume["id"], template_id=template["id"])
        endpoint = await api.post("/v2/serverless", body)
        assert endpoint["env"] == {"A": "b"}
        listed = [found["id"] async for found in api.pages("/v2/serverless", "endpoints")]
        assert listed == [SETTINGS.endpoint_id, endpoint["id"]]
        for path in (f"serverless/{endpoint['id']}", f"templates/{template['id']}", f"network-volumes/{volume['id']}"):
            await api.delete(f"/v2/{path}")
    assert len(recorded.exchanges) == 7


async def test_workers_min_is_set_by_the_published_request() -> None:
    async with checked_emulator(SETTINGS, ours=True) as (emulator, recorded), open_send() as send:
        provider = Provider("own", ProviderKind.RUNPOD, emulator.openai_url, KEY, control_url=emulator.url)
        management = RunPodManagement(provider, Management(SETTINGS.endpoint_id, emulator.origin), checked(send))
        assert await management.ensure(2)
        assert not await management.ensure(2)
        assert emulator.endpoint.settings.min_workers == 2
    path = f"/v2/serverless/{SETTINGS.endpoint_id}"
    assert recorded.exchanges == [f"{method} {path} 200" for method in ("GET", "PATCH", "GET", "GET")]


async def test_the_workers_are_read_as_published() -> None:
    async with checked_emulator(SETTINGS, ours=True) as (emulator, _), open_send() as send:
        emulator.endpoint.registry.start("w1")
        seen = parse_workers(await api_of(emulator, send).get(f"/v2/serverless/{SETTINGS.endpoint_id}/workers"))
    assert seen is not None
    (worker,) = seen.workers
    assert (worker.id, worker.status, worker.gpu_type) == ("w1", WorkerStatus.INITIALIZING, "NVIDIA L4")
    assert worker.started_at_us is not None


async def test_the_bill_is_read_to_its_last_digit() -> None:
    async with checked_emulator(SETTINGS, ours=True) as (emulator, _), open_send() as send:
        worker = emulator.endpoint.registry.start("w1")
        emulator.endpoint.end_worker(worker, 0)
        volume = emulator.account.volumes.create("models", 100, "EU-RO-1")
        today = datetime.now(UTC).date()
        query = BillQuery(today, today, SETTINGS.endpoint_id, (volume.id,))
        bill = await fetch_bill(api_of(emulator, send), query)
        own = emulator.bill().total_usd
    part = parts_per_day(bill.lines)[today]
    assert part.of(BillPart.GPU) == int(own * 10**12)
    assert part.of(BillPart.DISK) is not None
    assert part.of(BillPart.VOLUME) is not None


REFUSED = {
    "401": "API Keys",
    "403": "access in RunPod's console",
    "404": "check the id",
    "409": "repeat",
    "410": "management_api: v1",
    "422": "correct the fields",
    "429": f"{RETRY_AFTER_SECONDS} s",
    "500": "again",
    "501": "no such operation",
}
BROKEN = {"html": "is not RunPod", "cut": "no whole answer", "slow": "no answer in time"}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("fault", "remedy"), {**REFUSED, **BROKEN}.items(), ids=[*REFUSED, *BROKEN])
async def test_an_error_answer_becomes_a_sentence_with_its_remedy(method: str, fault: str, remedy: str) -> None:
    async with Emulator(SETTINGS, rest_quotas={}) as emulator, open_send() as send:
        emulator.inject(Faults(rest=fault))
        api = RestApi(emulator.origin, KEY, send, longest_wait_seconds=0.0, timeout_seconds=1.0)
        with pytest.raises(RestError) as caught:
            await (
                api.get("/v2/templates") if method == "GET" else api.post("/v2/templates", {"name": "t", "image": "i"})
            )
        emulator.inject(Faults())
    sentence = str(caught.value)
    assert remedy in sentence
    assert f"{method} /v2/templates" in sentence
    assert KEY not in sentence
    assert caught.value.status == (int(fault) if fault in REFUSED else 200 if fault == "html" else None)


async def test_pages_that_never_end_are_an_error_and_new_fields_are_none() -> None:
    async with Emulator(SETTINGS, rest_quotas={}) as emulator, open_send() as send:
        api = RestApi(emulator.origin, KEY, send, longest_wait_seconds=0.0)
        emulator.inject(Faults(rest="endless_pages"))
        with pytest.raises((RestError, UpstreamFailed), match="pages"):
            [item async for item in api.pages("/v2/serverless", "endpoints")]
        emulator.inject(Faults(rest="extra_field"))
        found = [item async for item in api.pages("/v2/serverless", "endpoints")]
        seen = parse_workers(await api.get(f"/v2/serverless/{SETTINGS.endpoint_id}/workers"))
    assert [item["id"] for item in found] == [SETTINGS.endpoint_id]
    assert seen is not None
