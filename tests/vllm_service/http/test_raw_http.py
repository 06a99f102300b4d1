"""Raw HTTP from callers who pipeline, split, stall, exaggerate or talk nonsense."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vllm_service.gateway.asking import answers
from tests.vllm_service.gateway.running import SECRET, Running, catalog_of, gateway_to, running
from tests.waiting import until
from vllm_service.http.limits import ConnectionLimits
from vllm_service.testing import ScriptedProvider, chat

LAST = "connection: close\r\n"


def post(body: bytes = b'{"model":"small"}', more: str = "", path: str = "/v1/chat/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\nx-annotate: off\r\n"
    return f"{head}{more}content-length: {len(body)}\r\n\r\n".encode() + body


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with gateway_to(ScriptedProvider(lambda request: chat(request.json["text"]))) as gateway:
        requests = [post(json.dumps({"model": "small", "text": f"<{number}>"}).encode()) for number in range(40)]
        received = await gateway.raw(b"".join(requests) + post(path="/elsewhere", more=LAST))
    places = [received.index(b"<%d>" % number) for number in range(40)]
    assert places == sorted(places)
    assert statuses(received) == [200] * 40 + [418]


async def test_thousands_of_refusals_from_one_packet_come_in_their_order() -> None:
    """Each is answered without a wait: answering one within the other would end in a RecursionError."""
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        received = await gateway.raw(post(b"{}") * 3000 + post(b"{}", LAST))
    assert statuses(received) == [400] * 3001


async def test_a_request_split_at_any_byte_is_one_request() -> None:
    request = post(more=LAST)
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        for at in range(1, len(request), 3):
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(request[:at])
            await asyncio.sleep(0)
            writer.write(request[at:])
            assert statuses(await reader.read()) == [200]
            writer.close()


async def test_a_chunked_body_is_put_together() -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {SECRET}\r\n{LAST}"
    head += "transfer-encoding: chunked\r\n\r\n"
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        received = await gateway.raw(head.encode() + b'8\r\n{"model"\r\n9\r\n:"small"}\r\n0\r\nx-trailer: 1\r\n\r\n')
    assert statuses(received) == [200]


async def test_who_waits_to_send_the_body_is_told_to() -> None:
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        received = await gateway.raw(post(more="expect: 100-continue\r\n" + LAST))
    assert statuses(received) == [100, 200]


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    body = b'{"model":"small","stream":true}'
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        received = await gateway.raw(post(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"chunked" not in received
    assert received.endswith(b"data: [DONE]\n\n")


async def test_an_offer_of_http_2_is_declined_by_answering() -> None:
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        received = await gateway.raw(
            post(more="connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n" + LAST)
        )
    assert statuses(received) == [200]


SMALL = ConnectionLimits(
    head_bytes=2000, headers=20, body_bytes=1000, head_seconds=0.5, body_idle_seconds=0.5, keep_alive_seconds=0.5
)


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (post(b"x" * 1001), 413, "BODY_TOO_LARGE_413"),
        (post().replace(b"content-length: 17", b"content-length: 99999999999"), 413, "BODY_TOO_LARGE_413"),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nff\r\n" + b"y" * 255 + b"\r\n3e8\r\n" + b"y" * 999,
            413,
            "BODY_TOO_LARGE_413",
        ),
        (post(more="x: y\r\n" * 21), 431, "HEAD_TOO_LARGE_431"),
        (post(more=f"x: {'y' * 2000}\r\n"), 431, "HEAD_TOO_LARGE_431"),
        (b"GET /" + b"z" * 3000, 431, "HEAD_TOO_LARGE_431"),
        (b"nonsense\r\n\r\n", 400, "INVALID_REQUEST_400"),
        (post(more="content-length: 3\r\n"), 400, "INVALID_REQUEST_400"),
        (post(more="transfer-encoding: chunked\r\n"), 400, "INVALID_REQUEST_400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "INVALID_REQUEST_400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost", 408, "REQUEST_TIMEOUT_408"),
        (post()[:-3], 408, "REQUEST_TIMEOUT_408"),
    ],
)  # fmt: skip
async def test_what_is_too_large_too_slow_or_no_request_is_refused(
    request_bytes: bytes, status: int, code: str
) -> None:
    async with gateway_to(ScriptedProvider(answers), limits=SMALL) as gateway:
        received = await gateway.raw(request_bytes)
        assert statuses(received) == [status]
        error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["request_id"]) == (code, None)
        assert await gateway.raw(b"") == b""  # a connection without a request is closed as well
        assert statuses(await gateway.raw(post(more=LAST))) == [200]


async def test_an_idle_connection_is_closed() -> None:
    async with gateway_to(ScriptedProvider(answers), limits=SMALL) as gateway:
        assert statuses(await gateway.raw(post())) == [200]


async def test_connections_beyond_the_limit_are_refused() -> None:
    async with gateway_to(
        ScriptedProvider(answers), limits=ConnectionLimits(connections=2, address_connections=2)
    ) as gateway:
        kept = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        assert statuses(await gateway.raw(b"")) == [503]
        kept[0][1].close()
        await until(lambda: gateway.server.connected <= 1)
        assert statuses(await gateway.raw(post(more=LAST))) == [200]
        kept[1][1].close()


@pytest.mark.parametrize(
    "body", [b"", b"[" * 100_000, b'{"model":"small","model":"unknown"}', b'{"model":"' + b"a" * 9000 + b'"}']
)  # test_request_body.py has many more
async def test_bodies_that_are_no_request_are_the_callers_mistake(body: bytes) -> None:
    async with gateway_to(ScriptedProvider(answers)) as gateway:
        received = await gateway.raw(post(body, LAST))
    assert statuses(received)[0] in (400, 404)
    assert len(received) < 1500


async def test_a_member_that_is_there_twice_cannot_smuggle_another_model() -> None:
    upstream = ScriptedProvider(answers)
    async with gateway_to(upstream) as gateway:
        for body in (b'{"model":"dear","model":"small"}', b'{"\\u006dodel":"small","x":{"model":"dear"}}'):
            assert statuses(await gateway.raw(post(body, LAST))) == [200]
    assert [request.json["model"] for request in upstream.requests] == ["small-there"] * 2
    assert b'"dear","model"' not in upstream.requests[0].body


PARTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([
        post(), post(b'{"model":"small","stream":true}'), post(b"{}"),
        b"POST /v1/chat/completions HTTP/1.1\r\n", b"\r\n\r\n",
        b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"GET /x HTTP/1.1\r\n\r\n",
        b"5\r\nabcde\r\n", b"0\r\n\r\n",
        b"connection: upgrade\r\nupgrade: websocket\r\n", b"HTTP/1.0\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ]),
)  # fmt: skip


def test_no_bytes_take_the_gateway_down() -> None:
    limits = ConnectionLimits(head_seconds=0.1, body_idle_seconds=0.1, keep_alive_seconds=0.1)

    async def sent(gateway: Running, parts: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for part in parts:
            writer.write(part)
            await asyncio.sleep(0)
        received = b""
        try:
            writer.write_eof()
            received = await asyncio.wait_for(reader.read(), 10)
        except OSError:  # bytes after the last request: the gateway had closed
            pass
        assert b"HTTP/1.1 500" not in received
        writer.close()

    with asyncio.Runner() as runner:

        async def opened() -> tuple[Running, asyncio.Event, asyncio.Task[None]]:
            ready: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
            end = asyncio.Event()

            async def serve() -> None:
                upstream = ScriptedProvider(answers)
                async with upstream, running(catalog_of(upstream.url), limits=limits) as gateway:
                    ready.set_result(gateway)
                    await end.wait()

            task = asyncio.ensure_future(serve())
            return await ready, end, task

        gateway, end, task = runner.run(opened())

        @settings(max_examples=300, deadline=None)
        @given(st.lists(PARTS, max_size=8))
        def fuzz(parts: list[bytes]) -> None:
            runner.run(sent(gateway, parts))

        async def closed() -> bytes:
            received = await gateway.raw(post(more=LAST))
            end.set()
            await task
            return received

        try:
            fuzz()
        finally:
            received = runner.run(closed())
        assert statuses(received) == [200]
