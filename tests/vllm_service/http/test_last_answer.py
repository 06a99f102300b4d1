"""A connection after its last answer, and a server that stops while requests are still being received."""

from __future__ import annotations

import asyncio

import pytest

from tests.vllm_service.http.one_connection import LIVE_PATH, SECRET, KeyStore, Served, Wire, chunked, post, turns
from vllm_service.http.addresses import AddressLimits

LIVE = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % LIVE_PATH
UPGRADE = b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" % LIVE_PATH
BODY = b"x" * 100_000


@pytest.mark.parametrize("one", [LIVE, UPGRADE])
async def test_what_comes_behind_the_last_request_is_not_answered(one: bytes) -> None:
    served = Served(address_limits=AddressLimits(requests_per_second=5))
    wire = served.connect()
    await wire.send(one * 2_000, piece=262_144)
    await turns()
    assert wire.statuses == [200] * 6  # the sixth is beyond the limit, and so the last
    assert len(served.requests) == 6
    assert wire.transport.is_gone


async def received_late(served: Served, wire: Wire, rest: bytes) -> bool:
    """Stops the server and sends the rest once it is stopping; returns whether everything ended by itself."""
    stop = asyncio.create_task(served.server.stop(10.0))
    await turns()
    assert served.server.is_stopping
    await wire.send(rest)
    return await stop


@pytest.mark.parametrize("request_bytes", [post(BODY), chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))])
async def test_a_body_that_is_being_received_when_the_server_stops_is_answered(request_bytes: bytes) -> None:
    served = Served()
    wire = served.connect()
    await wire.send(request_bytes[:50_000])
    assert await received_late(served, wire, request_bytes[50_000:])
    assert (wire.statuses, served.bodies) == ([200], [BODY])
    assert b"connection: close" in wire.transport.written


async def test_a_body_whose_key_is_found_while_the_server_stops_is_answered() -> None:
    keys = KeyStore(in_memory=set())
    served = Served(keys=keys)
    wire = served.connect()
    await wire.send(post(BODY), piece=50_000)
    keys.answers.set()
    await turns()
    assert await received_late(served, wire, post(BODY)[wire.sent :])
    assert wire.statuses == [200]


@pytest.mark.parametrize("secret", [None, "unknown"])
async def test_strangers_do_not_prolong_a_stop(secret: str | None) -> None:
    served = Served()
    await served.connect().send(post(BODY, secret=secret)[:50])
    await served.connect().send(post(BODY, secret=secret)[:50_000])
    began = asyncio.get_running_loop().time()
    assert await served.server.stop(10.0)
    assert asyncio.get_running_loop().time() - began < 5.0


async def test_a_client_that_repeats_a_wrong_key_does_not_lock_its_office_out() -> None:
    keys = KeyStore(in_memory=set())
    keys.answers.set()
    served = Served(keys=keys, address_limits=AddressLimits(wrong_keys_per_minute=3))
    for _ in range(20):
        wire = served.connect()
        await wire.send(post(secret="revoked"))
        await turns()
        assert wire.statuses == [401]
    colleague = served.connect()
    await colleague.send(post(secret=SECRET))
    await turns()
    assert colleague.statuses == [200]
