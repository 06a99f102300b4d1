"""Callers without a key, with a wrong one, or with one that is not in memory: what they can make the gateway do."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from tests.vllm_service.http.one_connection import LIVE_PATH, SECRET, KeyStore, Served, post, turns
from tests.waiting import until
from vllm_service.domain.keys import ApiKey
from vllm_service.http.addresses import AddressLimits, AddressTable, ClientAddresses

LARGE = 20_000_000


def get(path: bytes = b"/v1/models", more: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (path, more)


async def test_a_request_without_a_key_ends_with_its_head() -> None:
    served = Served()
    wire = served.connect()
    await wire.send(post(secret=None, length=LARGE))
    await turns()
    assert (wire.statuses, wire.is_refused, served.requests) == ([401], True, [])
    assert served.server.budget.held_bytes == 0
    assert served.server.status().refusals == {"UNAUTHORIZED_401": 1}


async def test_sixty_unfinished_bodies_of_strangers_are_not_kept() -> None:
    served = Served()
    body = b"x" * 1_000_000
    wires = [served.connect() for _ in range(60)]
    for wire in wires:
        await wire.send(post(secret=None, length=LARGE) + body)
    held = sum(wire.connection.body_size() + len(wire.connection._unread) for wire in wires)
    assert held == served.server.budget.held_bytes == 0


async def test_the_body_behind_an_unknown_key_stays_with_the_caller_until_the_key_is_found() -> None:
    keys = KeyStore(in_memory=set())
    served = Served(keys=keys)
    wire = served.connect()
    request = post(b"x" * LARGE)
    assert not await wire.send(request)
    assert not wire.is_read()
    assert wire.sent <= 2 * 65_536
    assert served.server.budget.held_bytes <= 65_536
    keys.answers.set()
    await turns()
    assert wire.is_read()
    assert await wire.send(request[wire.sent :])
    await until(lambda: wire.statuses == [200])
    assert [len(body) for body in served.bodies] == [LARGE]
    assert served.requests[0][0].body == b"x" * LARGE
    assert keys.looked_up == [SECRET]
    assert served.server.budget.held_bytes == 0


async def test_the_body_behind_a_wrong_key_is_never_read() -> None:
    keys = KeyStore(in_memory=set())
    keys.answers.set()
    served = Served(keys=keys)
    wire = served.connect()
    await wire.send(post(b"x" * LARGE, secret="wrong"))
    await turns()
    assert (wire.statuses, wire.is_refused, served.requests) == ([401], True, [])
    assert wire.sent <= 2 * 65_536
    assert wire.is_read()  # what still comes is dropped, so that the answer arrives
    assert served.server.budget.held_bytes == 0


async def test_leave_to_send_a_body_is_given_once_the_key_is_known() -> None:
    keys = KeyStore(in_memory=set())
    served = Served(keys=keys)
    wire = served.connect()
    await wire.send(post(length=5, more=b"expect: 100-continue\r\n"))
    await turns()
    assert wire.statuses == []
    keys.answers.set()
    await turns()
    assert wire.statuses == [100]
    await wire.send(b"hello")
    await turns()
    assert (wire.statuses, served.bodies) == ([100, 200], [b"hello"])


@pytest.mark.parametrize(
    "request_bytes",
    [get(more=b"content-length: 70000\r\n"), post(secret=None).replace(b"POST", b"PUT"), post().replace(b"/v1", b"/x")],
)
async def test_a_path_that_takes_no_large_body_reads_none(request_bytes: bytes) -> None:
    served = Served()
    wire = served.connect()
    await wire.send(request_bytes.replace(b"content-length: 0", b"content-length: 70000"))
    await turns()
    assert (wire.statuses, served.requests) == ([413], [])


def use_up(served: Served, address: str = "198.51.100.1") -> None:
    """Takes all requests of the address, for as long as a test may run."""
    record = served.server.head_check.table.record(address)
    later = asyncio.get_running_loop().time() + 10_000
    while not record.requests.take(later):
        pass


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(get(path) for path in (b"/v1/models", b"/health", b"/health/ready", b"/metrics", b"/", b"/nothing?x=1")),
        get(LIVE_PATH + b"?x"),
        *(post(), post(secret="wrong"), post(secret=None), post(more=b"authorization: Bearer b\r\n")),
        post(length=LARGE),
    ],
)  # fmt: skip
async def test_the_address_window_comes_first_on_every_path(request_bytes: bytes) -> None:
    served = Served(address_limits=AddressLimits(requests_per_second=3))
    use_up(served)
    wire = served.connect()
    await wire.send(request_bytes)
    await turns()
    assert (wire.statuses, served.requests) == ([429], [])
    assert b"retry-after" in wire.transport.written
    assert served.keys is not None
    assert served.keys.looked_up == []
    other = served.connect("198.51.100.2")
    await other.send(post())
    assert other.statuses == [200]


async def test_an_orchestrator_is_answered_at_an_address_whose_requests_are_used_up() -> None:
    served = Served(address_limits=AddressLimits(requests_per_second=3))
    use_up(served)
    for _ in range(3):
        wire = served.connect()
        await wire.send(get(LIVE_PATH) * 3)
        await turns()
        # A flood gets no further than one answer of each connection.
        assert (wire.statuses, wire.transport.is_gone) == ([200], True)


async def test_requests_through_a_trusted_proxy_count_for_the_client_that_it_names() -> None:
    served = Served(
        address_limits=AddressLimits(requests_per_second=3), addresses=ClientAddresses([ip_network("10.0.0.0/8")])
    )
    use_up(served, "203.0.113.7")
    wire = served.connect("10.0.0.1")
    await wire.send(post(more=b"x-forwarded-for: 198.51.100.9\r\n"))
    await wire.send(post(more=b"x-forwarded-for: 203.0.113.7\r\n"))
    assert wire.statuses == [200, 429]
    own = served.connect("10.0.0.1")
    await own.send(post())  # the proxy itself, such as its health check
    assert own.statuses == [200]


async def test_all_addresses_of_one_ipv6_customer_share_a_window() -> None:
    served = Served(address_limits=AddressLimits(requests_per_second=3))
    use_up(served, "2001:db8::/64")
    for address in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:0:1:2:3:4"):
        wire = served.connect(address)
        await wire.send(post())
        assert wire.statuses == [429]
    assert len(served.server.head_check.table) == 1


def test_a_bucket_gives_what_a_second_has_and_refills_evenly() -> None:
    requests = AddressTable(AddressLimits(requests_per_second=50)).record("a").requests
    assert [requests.take(1000.0) for _ in range(50)] == [0.0] * 50
    assert 0 < requests.take(1000.0) <= 0.021
    assert requests.take(1000.021) == 0.0
    assert requests.take(1000.022) > 0
    assert [requests.take(1002.0) for _ in range(50)] == [0.0] * 50
    assert requests.take(1002.0) > 0


def test_a_flood_of_addresses_keeps_the_table_small_and_forgets_none_that_is_connected() -> None:
    table = AddressTable(AddressLimits(requests_per_second=1), max_records=100)
    connected = table.record("connected")
    connected.connections = 1
    for number in range(10_000):
        table.record(f"address {number}")
    assert len(table) <= 101
    assert table.record("connected") is connected


async def test_after_too_many_wrong_keys_further_ones_are_refused_without_a_look_up() -> None:
    keys = KeyStore()
    keys.answers.set()
    served = Served(keys=keys, address_limits=AddressLimits(wrong_keys_per_minute=5))
    for number in range(20):
        wire = served.connect()
        await wire.send(post(secret=f"guess-{number}"))
        await turns()
        assert wire.statuses == ([401] if number < 5 else [429])
    assert len(keys.looked_up) == 5
    known = served.connect()
    await known.send(post())  # a neighbour at the same address, whose key is in memory
    other = served.connect("198.51.100.2")
    await other.send(post(secret="guess"))
    await turns()
    assert (known.statuses, other.statuses) == ([200], [401])


async def test_a_key_that_is_looked_up_again_is_no_guess_behind_an_address_of_wrong_keys() -> None:
    keys = KeyStore(in_memory=set(), stale={SECRET})
    keys.answers.set()
    served = Served(keys=keys, address_limits=AddressLimits(wrong_keys_per_minute=5))
    for number in range(8):
        wire = served.connect()
        await wire.send(post(secret=f"guess-{number}"))
        await turns()
    neighbour = served.connect()
    await neighbour.send(post())
    await turns()
    assert (wire.statuses, neighbour.statuses) == ([429], [200])


@pytest.mark.parametrize("path", [b"/v1/models", b"/health", b"/metrics"])
async def test_wrong_keys_count_wherever_they_are_tried(path: bytes) -> None:
    keys = KeyStore()
    keys.answers.set()
    served = Served(keys=keys, address_limits=AddressLimits(wrong_keys_per_minute=5))
    wire = served.connect()
    for number in range(8):
        await wire.send(get(path, b"authorization: Bearer guess-%d\r\n" % number))
        await turns()
    assert (len(keys.looked_up), wire.statuses) == (5, [200] * 5 + [429])


async def test_keys_that_are_tried_at_once_are_bounded_too() -> None:
    keys = KeyStore(in_memory=set())
    served = Served(keys=keys, address_limits=AddressLimits(wrong_keys_per_minute=5, keys_looked_up=10))
    guesses = [served.connect() for _ in range(50)]
    for number, wire in enumerate(guesses):
        await wire.send(post(secret=f"guess-{number}"))
    same = [served.connect("198.51.100.2") for _ in range(50)]
    for wire in same:
        await wire.send(post())
    await turns()
    keys.answers.set()
    await turns(20)
    assert sum(secret.startswith("guess") for secret in keys.looked_up) == 10
    assert sorted(wire.statuses[0] for wire in guesses) == [401] * 10 + [429] * 40
    assert [wire.statuses for wire in same] == [[200]] * 50  # one key that many requests wait for is one


@pytest.mark.parametrize("name", [b"authorization", b"Authorization", b"proxy-authorization", b"x-api-key", b"host"])
async def test_headers_that_contradict_each_other_are_refused(name: bytes) -> None:
    served = Served()
    wire = served.connect()
    await wire.send(post(more=b"%b: Bearer %b\r\n%b: other\r\n" % (name, SECRET.encode(), name.upper())))
    assert (wire.statuses, served.requests) == ([400], [])
    assert b"more than once" in wire.transport.written


async def test_two_hosts_are_refused_with_a_whole_url_as_target_too() -> None:
    served = Served()
    wire = served.connect()
    await wire.send(post(more=b"host: y\r\n").replace(b"POST ", b"POST http://z"))
    assert wire.statuses == [400]


async def test_headers_that_are_lists_may_be_there_twice() -> None:
    served = Served()
    wire = served.connect()
    await wire.send(post(more=b"accept: a\r\naccept: b\r\nx-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n"))
    assert wire.statuses == [200]


async def test_a_key_that_is_found_is_used_and_not_looked_up_again() -> None:
    keys = KeyStore(known={"late": ApiKey("key-2", "late org")}, in_memory=set())
    keys.answers.set()
    served = Served(keys=keys)
    wire = served.connect()
    await wire.send(post(secret="late"))
    await turns()
    caller = served.requests[0][0].caller
    assert caller is not None
    assert caller.key == ApiKey("key-2", "late org")
    assert keys.looked_up == ["late"]
