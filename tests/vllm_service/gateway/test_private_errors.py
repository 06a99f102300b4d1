"""No error repeats a provider's key or address to a caller, whatever the provider writes into its own."""

from __future__ import annotations

import json

import pytest

from tests.vllm_service.configured_order import ConfiguredOrder
from tests.vllm_service.gateway.asking import MESSAGES, posted
from tests.vllm_service.gateway.running import PROVIDER_SECRET, Running, catalog_of, gateway_to, running
from vllm_service.errors import ServiceError
from vllm_service.gateway.config_snapshot import ConfigSnapshot
from vllm_service.gateway.operations import CHAT
from vllm_service.testing import Close, ReceivedRequest, Reply, ScriptedProvider, begun, chat_chunk, events, whole

ASKED = {"model": "small", "messages": MESSAGES}
PRIVATE_URL = "http://10.1.2.3:8000/v1"


def echoed(request: ReceivedRequest) -> dict[str, object]:
    """An error that repeats what the provider has received, as a debugging proxy does."""
    key, host = request.headers["authorization"], request.headers["host"]
    text = f"cannot use {key} at http://{host}{request.target}, {host.upper()} refused"
    return {"error": {"message": text, "type": f"at {host}", "code": key, "param": f"http://{host}/v1"}}


def echoing(status: int) -> ScriptedProvider:
    return ScriptedProvider(lambda request: whole(echoed(request), status))


def assert_private(text: str, gateway: Running) -> None:
    base_url = gateway.gateway.config.catalog().providers["provider-1"].base_url
    port = base_url.rpartition(":")[2].partition("/")[0]
    assert [one for one in (PROVIDER_SECRET, base_url, port) if one.lower() in text.lower()] == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 200])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_provider_echoes_is_taken_out(status: int, stream: bool) -> None:
    async with gateway_to(echoing(status)) as gateway:
        code, headers, body = await posted(gateway, ASKED | {"stream": stream})
    assert code >= 400
    assert_private(f"{headers}{body.decode()}", gateway)
    if status in (400, 422):
        assert "cannot use Bearer [provider] at [provider]" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("begins", [False, True])
async def test_an_error_within_a_stream_is_no_exception(begins: bool) -> None:
    def script(request: ReceivedRequest) -> Reply:
        return events(*([chat_chunk("Hel")] if begins else []), echoed(request))

    async with gateway_to(ScriptedProvider(script)) as gateway:
        _, headers, body = await posted(gateway, ASKED | {"stream": True})
    assert b"error" in body
    assert_private(f"{headers}{body.decode()}", gateway)


@pytest.mark.parametrize("reply", [Reply((Close(),)), begun(chat_chunk("Hel")).then(Close())])
async def test_a_provider_that_is_gone_or_breaks_off_is_not_named_by_its_address(reply: Reply) -> None:
    async with gateway_to(ScriptedProvider(reply)) as gateway:
        _, headers, body = await posted(gateway, ASKED | {"stream": True})
    assert_private(f"{headers}{body.decode()}", gateway)
    async with running(catalog_of("http://127.0.0.1:1/v1")) as gateway:
        code, headers, body = await posted(gateway, ASKED)
    assert code == 503
    assert "127.0.0.1" not in f"{headers}{body.decode()}"


async def test_a_caller_within_the_process_gets_no_more() -> None:
    async with gateway_to(echoing(400)) as gateway:
        with pytest.raises(ServiceError) as raised:
            await gateway.gateway.complete(gateway.books.keys["sk-of-the-caller"], CHAT, ASKED)
    assert_private(f"{raised.value.message}{raised.value.details}{raised.value.param}", gateway)


def test_what_lies_deeper_in_the_details_is_taken_out_too() -> None:
    snapshot = ConfigSnapshot(catalog_of(PRIVATE_URL), ConfiguredOrder(catalog_of(PRIVATE_URL)))
    error = ServiceError("no", details={"attempts": [{"url": f"at {PRIVATE_URL}/chat", "status": 500}]})
    snapshot.conceal(error)
    assert error.details == {"attempts": [{"url": "at [provider]/chat", "status": 500}]}
