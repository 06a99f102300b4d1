"""A key is kept by its header from one request to the next, for as long as it needs no look-up."""

from __future__ import annotations

import asyncio
import ipaddress

from tests.vllm_service.http.one_connection import SECRET, KeyStore, Served, post
from vllm_service.domain.keys import ApiKey
from vllm_service.http.addresses import ClientAddresses

OTHER = ApiKey("key-2", "globex")


def served(fresh_seconds: float) -> Served:
    keys = KeyStore(fresh_seconds=fresh_seconds)
    keys.known["other-key"] = OTHER
    keys.in_memory.add("other-key")
    return Served(keys=keys)


def key_ids(serving: Served) -> list[str]:
    return [request.caller.key.id for request, _ in serving.requests if request.caller and request.caller.key]


async def test_the_secret_of_a_key_is_compared_once_while_it_needs_no_look_up() -> None:
    serving = served(60.0)
    for _ in range(3):
        wire = serving.connect()
        assert await wire.send(post(b"{}") * 2)
        assert wire.statuses == [200, 200]
    assert serving.keys is not None
    assert serving.keys.remembered_times == 1


async def test_a_revoked_key_is_refused_once_it_would_be_looked_up() -> None:
    serving = served(0.05)
    wire = serving.connect()
    assert await wire.send(post(b"{}"))
    assert serving.keys is not None
    serving.keys.known.clear()  # revoked
    serving.keys.answers.set()
    await asyncio.sleep(0.1)
    await wire.send(post(b"{}"))
    assert wire.statuses == [200, 401]


async def test_keys_that_take_turns_on_a_connection_are_told_apart() -> None:
    serving = served(60.0)
    wire = serving.connect()
    for secret in (SECRET, "other-key", SECRET):
        assert await wire.send(post(b"{}", secret=secret))
    assert key_ids(serving) == ["key-1", "key-2", "key-1"]


async def test_a_request_without_a_key_is_refused_behind_one_with_a_key() -> None:
    serving = served(60.0)
    wire = serving.connect()
    assert await wire.send(post(b"{}"))
    await wire.send(post(b"{}", secret=None))
    assert wire.statuses == [200, 401]


async def test_a_path_that_takes_no_large_body_takes_none_behind_one_that_does() -> None:
    serving = served(60.0)
    wire = serving.connect()
    assert await wire.send(post(b"{}"))
    await wire.send(post(b"{}", length=100_000).replace(b"/v1/chat/completions", b"/v1/models"))
    assert wire.statuses == [200, 413]


async def test_behind_a_proxy_each_request_is_of_the_client_that_it_names() -> None:
    serving = served(60.0)
    serving.addresses = ClientAddresses((ipaddress.ip_network("198.51.100.1/32"),))
    serving.__post_init__()
    wire = serving.connect("198.51.100.1")
    for client in (b"203.0.113.5", b"203.0.113.6"):
        assert await wire.send(post(b"{}", b"x-forwarded-for: %b\r\n" % client))
    records = [request.caller.record for request, _ in serving.requests if request.caller]
    assert [record.name for record in records if record] == ["203.0.113.5", "203.0.113.6"]


async def test_requests_of_one_connection_share_their_caller_while_method_path_and_key_are_the_same() -> None:
    serving = served(60.0)
    wire = serving.connect()
    first = post(b"{}")
    other_path = first.replace(b"/v1/chat/completions", b"/v1/completions")
    other_method = first.replace(b"POST ", b"PUT ")
    for request in (first, first, first, other_path, other_method):
        assert await wire.send(request)
    callers = [request.caller for request, _ in serving.requests]
    assert callers[1] is callers[2]
    assert len({id(caller) for caller in callers[2:]}) == 3
