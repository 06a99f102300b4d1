"""The client of RunPod's REST API, over both ways of sending, against a server that answers whatever it is given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from runpod_emulator import Emulator, EndpointSettings
from tests.vllm_service.runpod.scripted import (
    ENDLESS,
    ENDLESS_HEAD,
    HANG,
    PROBLEM,
    Scripted,
    problem,
    raw,
    says,
    scripted,
)
from vllm_service.http.pool import ConnectionPool
from vllm_service.runpod.command_http import open_send
from vllm_service.runpod.control import ControlHttp
from vllm_service.runpod.endpoint import SendHttp
from vllm_service.runpod.rate_limits import RateLimits
from vllm_service.runpod.rest_api import MOST_PAGES, RestApi, endpoint_path
from vllm_service.runpod.rest_errors import LONGEST_WORDS, RestError

KEY = "rpa_SECRET0KEY1OF2TESTS"
PASSWORD = "hunter2-and-more"
EP = "/v2/serverless/ep"


@asynccontextmanager
async def gateway_send() -> AsyncIterator[ControlHttp]:
    connections = ConnectionPool()
    yield ControlHttp(connections)
    await connections.close()


class Bench:
    """An API client with a clock that only its sleep moves."""

    def __init__(self, script: Scripted, send: SendHttp) -> None:
        self.script = script
        self.send = send
        self.now = 0.0
        self.slept: list[float] = []

    def api(self, **options: Any) -> RestApi:
        options = {"timeout_seconds": 20.0, "longest_wait_seconds": 60.0} | options
        return RestApi(self.script.origin, KEY, self.send, clock=lambda: self.now, sleep=self._sleep, **options)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(params=["command", "gateway"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    opened: Any = open_send if request.param == "command" else gateway_send
    async with scripted() as script, opened() as send:
        yield Bench(script, send)


async def test_what_is_sent_is_what_the_published_schema_has(bench: Bench) -> None:
    bench.script.answers = [says({"id": "ep", "new": 1}), says({"id": "ep"}, 201), says({"id": "ep"}), raw(204)]
    api = bench.api()
    assert await api.get(EP, {"lastN": 3}) == {"id": "ep", "new": 1}
    assert await api.post("/v2/serverless", {"name": "x"}) == {"id": "ep"}
    assert await api.patch(EP, {"workers": {"min": 2}}) == {"id": "ep"}
    await api.delete(EP)
    assert [(method, target, body) for method, target, _, body in bench.script.asked] == [
        ("GET", f"{EP}?lastN=3", b""),
        ("POST", "/v2/serverless", b'{"name": "x"}'),
        ("PATCH", EP, b'{"workers": {"min": 2}}'),
        ("DELETE", EP, b""),
    ]
    for _, _, headers, _ in bench.script.asked:
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"].startswith("vllm-service/")  # some of RunPod's hosts refuse libraries' own


def test_an_id_cannot_leave_its_place_in_the_path() -> None:
    assert endpoint_path("ep-1") == "/v2/serverless/ep-1"
    assert endpoint_path("../x?y#z %") == "/v2/serverless/..%2Fx%3Fy%23z%20%25"


async def test_amounts_are_read_from_the_text_and_not_through_floats(bench: Bench) -> None:
    bench.script.answers = [raw(200, b'{"totalAmount": 0.1000000000000000055, "n": 3, "big": 1e400}')]
    document = await bench.api().get(EP)
    assert document == {"totalAmount": Decimal("0.1000000000000000055"), "n": 3, "big": Decimal("1e400")}


async def test_an_answer_that_is_longer_than_its_reader_allows_is_not_read(bench: Bench) -> None:
    bench.script.answers = [raw(200, b'{"a": "%b"}' % (b"x" * 2000)), raw(200, b'{"a": "x"}')]
    api = bench.api(longest_body_bytes=1000)
    with pytest.raises(RestError, match="is not RunPod: more than 1000 bytes"):
        await api.get(EP)
    assert await api.get(EP) == {"a": "x"}


HTML = b"<html><body>Attention required: %b</body></html>" % KEY.encode()
#: The answer, and what the sentence has to hold: what happened, and the remedy.
ANSWERS = {
    "bad request": (problem(400, "request could not be processed"), "400 (request could not be processed); correct"),
    "no key": (problem(401, "missing bearer token"), "401 (missing bearer token); set the variable that api_key_env"),
    "credit": (problem(402, "insufficient balance"), "402 (insufficient balance); add credit to the RunPod account"),
    "permission": (problem(403, "access denied"), "(access denied); give the key Read Only or Read/Write access in"),
    "not there": (problem(404, "endpoint not found"), "404 (endpoint not found); check the id, and that the key is of"),
    "another service": (raw(404, b"404 page not found", "text/plain"), "not RunPod's form, so check management_url"),
    "method": (problem(405), "405 (Problem); this address has no such operation: check management_url"),
    "conflict": (problem(409, "a release rolls out"), "409 (a release rolls out); something else changes it"),
    "gone": (problem(410, "v1 is gone"), "RunPod retired this API: remove management_api: v1 and management_url"),
    "too large": (raw(413), "413; make the request smaller"),
    "validation": (
        problem(422, "Request validation failed.", errors=["$: additional properties 'bogus' not allowed"]),
        "(Request validation failed; $: additional properties 'bogus' not allowed); correct the fields that are named",
    ),
    "teapot": (raw(418), "418; correct the request, or update this package"),
    "rate limit": (raw(429, b"{}", PROBLEM, retry_after="3600"), "429; try again in 3600 s"),
    "rate limit without a time": (raw(429, b"{}", ratelimit='"minute";r=0;t=9999999'), "429; try again in a minute"),
    "broken": (problem(500, "internal"), "500 (internal); the fault is RunPod's: try again in a minute"),
    "not implemented": (problem(501, "later"), "501 (later); this address has no such operation: check management_url"),
    "bad gateway": (raw(502, HTML, "text/html"), "502; the fault is RunPod's: try again in a minute"),
    "maintenance": (raw(503, b"", retry_after="1200"), "503; the fault is RunPod's: try again in 1200 s"),
    "blocked": (raw(403, HTML, "text/html"), "access in RunPod's console under API Keys, or use a key"),
    "page": (raw(200, HTML, "text/html"), "what answered 200 is not RunPod: no JSON (text/html); check management_url"),
    "nothing": (raw(200), "what answered 200 is not RunPod: nothing in it (application/json); check management_url"),
    "a list": (says([1]), "is not RunPod: JSON that is no object"),
    "no number": (raw(200, b'{"totalAmount": NaN}'), "is not RunPod: no JSON"),
    "no exponent": (raw(200, b'{"totalAmount": 1e99999999999999999999}'), "is not RunPod: no JSON"),
    "nested": (raw(200, b'{"a":' * 100_000), "is not RunPod: no JSON"),
    "half a document": (raw(200, b'{"id": "e'), "is not RunPod: no JSON"),
    "redirect": (raw(302, location="https://elsewhere.example/"), "302; write the address that it leads to into"),
    "cut": (raw(200, b'{"id":', content_length="4000"), "no whole answer"),
    "cut head": (b"HTTP/1.1 200 OK\r\ncontent-le", "no whole answer"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", "no whole answer"),
    "slow": (HANG, "try again in a minute, and check that this machine reaches the address"),
    "endless": (ENDLESS, "no whole answer"),
    "endless head": (ENDLESS_HEAD, "no whole answer"),
    "no detail": (problem(400), "400 (Problem); correct the request"),
    "odd problem": (raw(400, b'{"detail": 7, "title": [], "errors": {"a": 1}}'), "400; correct the request"),
    "odd fields": (problem(422, "d", errors=[None, 3, "workers.min: too low", {}]), "(d; workers.min: too low)"),
    "control characters": (problem(400, "a\r\nb\x1b[31mc\u202ed"), "400 (a b [31mc d); correct"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_every_answer_that_is_none_gives_one_sentence_with_its_remedy(bench: Bench, name: str) -> None:
    answer, words = ANSWERS[name]
    bench.script.answers = [answer]
    timeout = 0.3 if answer == HANG else 20.0
    with pytest.raises(RestError) as failed:
        await bench.api(longest_wait_seconds=0.0, timeout_seconds=timeout).get(EP)
    message = failed.value.message
    assert message.startswith(f"GET {EP}: ")
    assert words in message
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 700
    assert KEY not in repr(failed.value) + str(vars(failed.value))


async def test_a_post_that_was_not_answered_says_that_it_may_have_been_done_and_a_write_asks_for_write_access(
    bench: Bench,
) -> None:
    bench.script.answers = [raw(201, b"{", content_length="9"), problem(403, "no"), problem(500)]
    api = bench.api()
    for words in ("it may have been carried out: look", "give the key Read/Write access", "look first whether it was"):
        with pytest.raises(RestError, match=words):
            await api.post("/v2/serverless", {})
    assert len(bench.script.asked) == 3


async def test_a_huge_detail_is_shortened(bench: Bench) -> None:
    bench.script.answers = [problem(422, "x" * 500_000, errors=["y" * 1000] * 100)]
    with pytest.raises(RestError) as failed:
        await bench.api().get(EP)
    assert len(failed.value.detail or "") == LONGEST_WORDS
    assert len(failed.value.message) < 1000
    assert sum(map(len, failed.value.fields)) <= LONGEST_WORDS


async def test_neither_the_key_nor_a_value_of_the_environment_is_shown_however_it_is_repeated(bench: Bench) -> None:
    environment = {"HF_TOKEN": PASSWORD, "JSON": 'a "quoted" value', "PIN": "8731", "FLAG": "true"}
    body = {"name": "x", "env": environment, "password": "other-password", "nested": [{"apiKey": "a-third-secret"}]}
    detail = (
        f"env {json.dumps(environment)} is wrong, true; key {KEY} Bearer {KEY.lower()} cut {PASSWORD[:10]}... "
        f"a%20%22quoted%22%20value other-password a-third-secret"
    )
    bench.script.answers = [problem(422, detail, errors=[f"HF_TOKEN: {PASSWORD}", KEY]), problem(403, KEY)]
    api = bench.api()
    with pytest.raises(RestError) as failed:
        await api.post("/v2/serverless", body)
    shown = repr(failed.value) + str(vars(failed.value))
    for secret in (KEY, KEY.lower(), PASSWORD, PASSWORD[:10], "quoted", "8731", "other-password", "third-secret"):
        assert secret not in shown
    assert "is wrong, true" in shown
    assert failed.value.fields == ("HF_TOKEN: [concealed]", "[concealed]")
    with pytest.raises(RestError, match=r"403 \(\[concealed\]\)"):
        await api.get(EP)
    assert KEY not in repr(api)


async def test_what_fails_for_a_moment_is_asked_again_unless_that_could_create_twice(bench: Bench) -> None:
    cut = raw(200, b"{", content_length="9")
    for method in ("get", "patch", "delete"):
        bench.script.answers = [problem(500), cut, problem(503), says({"id": "ep"})]
        call = getattr(bench.api(), method)
        assert await (call(EP, {}) if method == "patch" else call(EP)) in ({"id": "ep"}, None)
    assert bench.slept == [0.5, 1.0, 2.0] * 3
    bench.script.answers = [problem(500)] * 4
    with pytest.raises(RestError):
        await bench.api().get(EP)
    assert bench.script.answers == []


@pytest.mark.parametrize("answer", [problem(400), problem(404), problem(410), problem(501), raw(200, HTML)])
async def test_what_will_not_get_better_is_not_asked_again(bench: Bench, answer: bytes) -> None:
    bench.script.answers = [answer, says({})]
    with pytest.raises(RestError):
        await bench.api().get(EP)
    assert (len(bench.script.answers), bench.slept) == (1, [])


async def test_a_delete_that_was_done_though_its_answer_was_lost_counts_as_done(bench: Bench) -> None:
    bench.script.answers = [b"HTTP/1.1 204 No Content\r\n", problem(500), problem(404)]
    await bench.api().delete(EP)
    bench.script.answers = [problem(404)]
    with pytest.raises(RestError) as failed:
        await bench.api().delete(EP)
    assert failed.value.status == 404


async def test_a_rate_limit_is_waited_out_by_all_users_of_the_key_and_by_no_other(bench: Bench) -> None:
    limits = RateLimits()
    used_up = says({}, ratelimit='"minute";r=0;t=12, "hour";r=2800;t=1812', ratelimit_policy='"minute";q=60;w=60')
    bench.script.answers = [used_up, says({}), says({}), says({})]
    await bench.api(limits=limits).get(EP)
    assert bench.slept == []
    other = RestApi(bench.script.origin, "other-key", bench.send, limits=limits, clock=lambda: bench.now)
    await other.get(EP)
    await bench.api(limits=limits).patch(EP, {})  # another group of operations
    await bench.api(limits=limits).get(EP)
    assert bench.slept == [12.0]


async def test_a_429_is_asked_again_when_it_says_so_also_a_post_since_it_was_not_done(bench: Bench) -> None:
    bench.script.answers = [raw(429, b"{}", retry_after="7"), raw(429, b"{}"), says({"id": "ep"}, 201)]
    assert await bench.api().post("/v2/serverless", {}) == {"id": "ep"}
    assert bench.slept == [7.0, 5.0]


async def test_nothing_is_waited_for_longer_than_the_caller_would_and_nothing_is_sent_before_its_time(
    bench: Bench,
) -> None:
    bench.script.answers = [raw(429, b"{}", retry_after="50")]
    with pytest.raises(RestError, match="429; try again in 50 s") as failed:
        await bench.api(longest_wait_seconds=49.0).get(EP)
    assert (failed.value.status, failed.value.retry_after_seconds) == (429, 50.0)
    limits = RateLimits()
    for sent in ([raw(429, b"{}", retry_after="50")], []):
        bench.script.answers = sent
        with pytest.raises(RestError, match="try again in 50 s") as failed:
            await bench.api(longest_wait_seconds=0.0, limits=limits).get(EP)
        assert failed.value.status == 429
    assert bench.slept == []


async def test_the_pages_of_a_list_are_read_to_their_end(bench: Bench) -> None:
    bench.script.answers = [
        says({"endpoints": [{"id": "a"}, "odd", None], "nextCursor": "c 1"}),
        says({"endpoints": [{"id": "b"}], "nextCursor": None}),
    ]
    found = [item["id"] async for item in bench.api().pages("/v2/serverless", "endpoints", {"limit": 2})]
    assert found == ["a", "b"]
    assert [target for _, target, _, _ in bench.script.asked] == [
        "/v2/serverless?limit=2",
        "/v2/serverless?limit=2&cursor=c+1",
    ]


@pytest.mark.parametrize(
    ("documents", "words"),
    [
        ([{"endpoints": [], "nextCursor": "same"}] * 3, "a cursor comes again"),
        ([{"endpoints": [], "nextCursor": "x" * 5000}], "is too long"),
        ([{"endpoints": [], "nextCursor": str(page)} for page in range(MOST_PAGES + 1)], "more than 200 pages"),
        ([{"endpoints": {}}], "has no list 'endpoints'"),
        ([{}], "has no list 'endpoints'"),
    ],
)
async def test_pages_that_do_not_end_end_in_an_error(bench: Bench, documents: list[object], words: str) -> None:
    bench.script.answers = [says(document) for document in documents]
    with pytest.raises(RestError, match=words):
        async for _ in bench.api().pages("/v2/serverless", "endpoints"):
            pass


LINES = b'id: 1\ndata: {"ts":"t","source":"container","line":"a"}\n\n: ping\n\ndata: [1]\n\ndata: {"line": "b"}\n\n'


async def test_the_lines_of_a_workers_log_come_as_they_are_written(bench: Bench) -> None:
    if isinstance(bench.send, ControlHttp):
        with pytest.raises(TypeError, match="open_send"):
            await anext(bench.api().events(f"{EP}/workers/w/logs"))
        return
    bench.script.answers = [raw(200, LINES, "text/event-stream"), problem(404, "no worker"), raw(200, LINES[:70])]
    api = bench.api()
    lines = [event["line"] async for event in api.events(f"{EP}/workers/w/logs", {"tail": 5})]
    assert lines == ["a", "b"]
    with pytest.raises(RestError, match=r"404 \(no worker\); check the id"):
        await anext(api.events(f"{EP}/workers/w/logs"))
    assert [event["line"] async for event in api.events(f"{EP}/workers/w/logs")] == ["a"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (raw(200, LINES, content_length="999"), "no whole answer"),
        (raw(200, b"data: " + b"x" * (9 * 2**20)), "no whole answer"),
        (ENDLESS, "no whole answer"),
    ],
)
async def test_a_log_that_breaks_or_never_ends_a_line_ends_in_an_error(answer: bytes, words: str) -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [answer]
        with pytest.raises(RestError, match=words):
            async for _ in RestApi(script.origin, KEY, send).events(f"{EP}/workers/w/logs"):
                pass


@pytest.mark.parametrize("rest", [HANG, LINES * 100_000])
async def test_a_log_is_read_for_so_long_whether_it_is_silent_or_never_stops(rest: bytes) -> None:
    async with scripted() as script, open_send() as send:
        script.answers = [raw(200, LINES, content_length="999999999") + rest]
        api = RestApi(script.origin, KEY, send)
        lines = [event["line"] async for event in api.events(EP, longest_seconds=0.2)]
    assert lines[:2] == ["a", "b"]
    assert len(lines) < 200_000


@pytest.mark.parametrize("opening", [open_send, gateway_send])
async def test_the_emulators_quota_is_waited_out_and_no_request_is_refused(opening: Any) -> None:
    now = 0.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    settings = EndpointSettings(endpoint_id="ep", api_key=KEY)
    emulator = Emulator(settings, rest_quotas={"serverless": 3}, clock=lambda: now)
    async with emulator, opening() as send:
        api = RestApi(emulator.origin, KEY, send, limits=RateLimits(), clock=lambda: now, sleep=sleep)
        for number in range(7):
            document = await api.patch(EP, {"workers": {"max": 1 + number}}) if number % 2 else await api.get(EP)
            assert document["id"] == "ep"
    assert sum(slept) == 120.0
