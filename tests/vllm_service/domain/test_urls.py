"""URLs that a request can reach, and those that none can."""

from __future__ import annotations

import pytest

from vllm_service.domain.urls import is_plain_beyond_this_machine, url_fault


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/v1",
        "https://api.example.com/v1/",
        "http://127.0.0.1:8000/v1",
        "http://127.1:8000",
        "http://[::1]:8000/v1",
        "http://gateway_1.local:65535/a/b%20c",
        f"http://{'a' * 63}.test",
        "http://host.test.:1/v1",
        "http://xn--mnchen-3ya.de/v1",
        "http://4u.test",
    ],
)
def test_a_good_url_has_no_fault(url: str) -> None:
    assert url_fault(url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:99999/v1", "port"),
        ("http://127.0.0.1:0/v1", "port"),
        ("http://127.0.0.1:x/v1", "port"),
        ("http://127.0.0.1:-1/v1", "port"),
        (f"http://{'a' * 70}.test/v1", "at most 253 characters"),
        (f"http://{'.'.join(['a' * 50] * 6)}/v1", "at most 253 characters"),
        ("http://a..test/v1", "at most 253 characters"),
        ("http://.test/v1", "at most 253 characters"),
        ("http://-a.test/v1", "at most 253 characters"),
        ("http://a,b.test/v1", "at most 253 characters"),
        ("http://256.1.1.1/v1", "four numbers"),
        ("http://1.2.3.4.5/v1", "four numbers"),
        ("http:///v1", "expected a URL"),
        ("http://:8000/v1", "host is missing"),
        ("http://./v1", "host is missing"),
        ("https:/host/v1", "expected a URL"),
        ("ftp://host/v1", "expected a URL"),
        ("host/v1", "expected a URL"),
        ("", "spaces"),
        ("http://host /v1", "spaces"),
        ("http://ho st/v1", "spaces"),
        ("http://host/v1\n", "spaces"),
        ("http://ho\tst/v1", "spaces"),
        ("http://host/v\\1", "spaces"),
        ("http://münchen.de/v1", "xn--"),
        ("http://host/v1/ü", "xn--"),
        ("http://user:secret@host/v1", "user name"),
        ("http://@host/v1", "user name"),
        ("http://host/v1?key=secret", "query"),
        ("http://host/v1#part", "fragment"),
        ("http://[::1/v1", "brackets"),
        ("http://[::g]/v1", "IPv6"),
        ("http://[127.0.0.1]/v1", "IPv6"),
    ],
)
def test_a_url_that_no_request_can_reach_has_its_reason_without_the_url(url: str, reason: str) -> None:
    fault = url_fault(url)
    assert fault is not None
    assert reason in fault
    assert "secret" not in fault


def test_a_user_name_and_a_query_can_be_allowed() -> None:
    assert url_fault("http://user:secret@host:4318/x?a=b", with_user=True, with_query=True) is None


HERE = ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.255.0.9", "127.1", "[::1]", "[::ffff:127.0.0.1]"]
ELSEWHERE = [
    *("10.0.0.7", "192.168.1.2", "172.17.0.1", "100.64.0.1", "169.254.169.254", "8.8.8.8", "0.0.0.0"),
    *("[fe80::1]", "[fd00::1]", "[::]", "[::ffff:10.0.0.1]", "gateway", "vllm.default.svc.cluster.local"),
    *("localhost.example.com", "127.0.0.1.example.com", "notlocalhost", "host.docker.internal"),
]


@pytest.mark.parametrize(
    ("host", "crosses"), [*((host, False) for host in HERE), *((host, True) for host in ELSEWHERE)]
)
def test_a_key_stays_secret_over_http_on_this_machine_alone(host: str, crosses: bool) -> None:
    for url in (f"http://{host}", f"http://{host}:8000/v1", f"HTTP://{host}/v1"):
        assert url_fault(url) is None
        assert is_plain_beyond_this_machine(url) is crosses
    assert not is_plain_beyond_this_machine(f"https://{host}/v1")
