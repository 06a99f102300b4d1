"""Connections as something that callers share: one address has a part of them, and hoards give way."""

from __future__ import annotations

from ipaddress import ip_network

from tests.vllm_service.gateway.asking import answers
from tests.vllm_service.gateway.running import gateway_to
from tests.vllm_service.http.one_connection import Served, Wire, post, turns
from tests.vllm_service.http.test_raw_http import LAST, statuses
from tests.vllm_service.http.test_raw_http import post as raw_post
from tests.waiting import until
from vllm_service.http.addresses import ClientAddresses
from vllm_service.http.limits import ConnectionLimits
from vllm_service.testing import ScriptedProvider

HOARDER, GOOD = "198.51.100.1", "198.51.100.2"


def served_with(connections: int, of_address: int | None = None) -> Served:
    return Served(ConnectionLimits(connections=connections, address_connections=of_address))


async def answered(wire: Wire) -> list[int]:
    await wire.send(post())
    await turns()
    return wire.statuses


async def test_idle_connections_of_one_address_leave_three_quarters_to_the_others() -> None:
    served = served_with(200)
    hoarded = [served.connect(HOARDER) for _ in range(200)]
    await turns()
    refused = [wire for wire in hoarded if wire.statuses == [503]]
    assert len(refused) == 150
    assert b"This address has too many connections, more than 50" in refused[0].transport.written
    assert await answered(served.connect(GOOD)) == [200]
    assert await answered(hoarded[0]) == [200]
    assert served.server.status().refusals == {"OVERLOADED_503": 150}


async def test_when_all_are_taken_the_address_with_most_gives_way() -> None:
    served = served_with(20, of_address=20)
    hoarded = [served.connect(HOARDER) for _ in range(20)]
    good = [served.connect(GOOD) for _ in range(8)]
    assert [await answered(wire) for wire in good] == [[200]] * 8
    assert [wire.transport.is_gone for wire in hoarded] == [True] * 8 + [False] * 12  # the longest idle ones
    assert served.server.connected == 20
    late = served.connect(HOARDER)
    assert late.statuses == [503]  # it has most itself


async def test_unfinished_heads_are_no_way_to_keep_connections() -> None:
    served = served_with(20, of_address=20)
    hoarded = [served.connect(HOARDER) for _ in range(20)]
    for wire in hoarded:
        await wire.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ")
    assert await answered(served.connect(GOOD)) == [200]
    assert sum(wire.transport.is_gone for wire in hoarded) == 1


async def test_idle_connections_go_before_those_that_send() -> None:
    served = served_with(4, of_address=4)
    sends, idle = served.connect(HOARDER), [served.connect(HOARDER) for _ in range(3)]
    await sends.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: ")
    assert await answered(served.connect(GOOD)) == [200]
    assert (sends.transport.is_gone, [wire.transport.is_gone for wire in idle]) == (False, [True, False, False])


async def test_requests_that_are_answered_are_never_cut_for_a_new_connection() -> None:
    served = served_with(3, of_address=3)
    served.go_on.clear()
    busy = [served.connect(HOARDER) for _ in range(3)]
    for wire in busy:
        await wire.send(post())
    assert served.connect(GOOD).statuses == [503]
    served.go_on.set()
    await turns()
    assert [wire.statuses for wire in busy] == [[200]] * 3


async def test_connections_of_a_trusted_proxy_have_no_share() -> None:
    served = Served(ConnectionLimits(connections=40), addresses=ClientAddresses([ip_network("10.0.0.0/8")]))
    proxied = [served.connect("10.0.0.1") for _ in range(40)]
    assert [wire.statuses for wire in proxied] == [[]] * 40


async def test_a_customer_of_ipv6_has_one_share_for_all_addresses() -> None:
    served = served_with(40)
    wires = [served.connect(f"2001:db8::{number:x}") for number in range(1, 41)]
    assert sum(wire.statuses == [503] for wire in wires) == 30


async def test_a_flood_of_connections_is_cut_before_refusals_take_more_than_the_limit() -> None:
    served = served_with(100)
    wires = [served.connect(f"198.51.{number // 250}.{number % 250}") for number in range(2_000)]
    assert served.server.connected <= 100 + 257
    assert [wire.statuses for wire in wires[:100]] == [[]] * 100


async def test_counts_come_back_when_connections_end() -> None:
    served = served_with(40)
    for _ in range(10):
        for wire in [served.connect(HOARDER) for _ in range(10)]:
            assert wire.statuses == []
            wire.transport.abort()
    record = served.server.head_check.table.record(HOARDER)
    assert (record.connections, served.server.connected) == (0, 0)


async def test_blank_lines_do_not_keep_an_idle_connection() -> None:
    served = Served(ConnectionLimits(keep_alive_seconds=5, head_seconds=5))
    wire = served.connect()
    assert await answered(wire) == [200]
    begun = wire.connection._idle_since
    for second in range(4):
        await wire.send(b"\r\n")
        wire.connection.check(begun + second)
    assert not wire.transport.is_gone
    await wire.send(b"\r\n")
    wire.connection.check(begun + 6)
    assert wire.transport.is_gone


async def test_an_orchestrator_reaches_a_gateway_whose_connections_are_hoarded() -> None:
    limits = ConnectionLimits(connections=8, address_connections=8)
    async with gateway_to(ScriptedProvider(answers), limits=limits) as gateway:
        hoarded = [await gateway.connection("127.0.0.2") for _ in range(8)]
        await until(lambda: gateway.server.connected == 8)
        received = await gateway.raw(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert statuses(received) == [200]
        assert received.endswith(b'{"status":"alive"}')
        assert statuses(await gateway.raw(raw_post(more=LAST))) == [200]
        for _, writer in hoarded:
            writer.close()


async def test_a_proxys_connections_are_no_hoard() -> None:
    addresses = ClientAddresses((ip_network("10.0.0.0/24"),))
    served = Served(ConnectionLimits(connections=20, address_connections=20), addresses=addresses)
    proxied = [served.connect("10.0.0.1") for _ in range(12)]
    hoarded = [served.connect(HOARDER) for _ in range(8)]
    good = served.connect(GOOD)
    assert await answered(good) == [200]
    assert [wire.transport.is_gone for wire in hoarded] == [True] + [False] * 7
    assert await answered(served.connect("10.0.0.1")) == [200]  # though the proxy has more than the hoarder
    assert [wire.transport.is_gone for wire in hoarded] == [True] * 2 + [False] * 6
    assert not any(wire.transport.is_gone for wire in proxied)


async def test_a_proxy_gives_way_to_a_proxy_only() -> None:
    addresses = ClientAddresses((ip_network("10.0.0.0/24"),))
    served = Served(ConnectionLimits(connections=4, address_connections=4), addresses=addresses)
    proxied = [served.connect("10.0.0.1") for _ in range(4)]
    assert served.connect(GOOD).statuses == [503]
    assert await answered(served.connect("10.0.0.2")) == [200]
    assert [wire.transport.is_gone for wire in proxied] == [True] + [False] * 3
