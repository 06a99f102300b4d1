"""Without keys the gateway serves its own machine, and no page of another site that is open in a browser there."""

from __future__ import annotations

import pytest

from vllm_service.domain.keys import ApiKey
from vllm_service.errors import Forbidden
from vllm_service.http.head_check import HeadCheck
from vllm_service.storage.protocol import RememberedKey

LOCAL = ApiKey("local", "local")
TARGETS = ((b"POST", b"/v1/chat/completions"), (b"GET", b"/metrics"), (b"GET", b"/health"), (b"OPTIONS", b"/v1/models"))


class NoKeys:
    """A key store without a key."""

    async def find(self, secret: str) -> ApiKey | None:
        return None

    def remembered(self, secret: str) -> RememberedKey | None:
        return None

    def is_known(self, secret: str) -> bool:
        return False


def headers(origin: str | None) -> dict[bytes, bytes]:
    return {b"host": b"127.0.0.1:8090"} | ({} if origin is None else {b"origin": origin.encode()})


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.test", "http://evil.test:8090", "http://localhost.evil.test", "http://127.0.0.1.evil.test"),
        *(
            "http://127.0.0.1@evil.test",
            "http://192.168.1.7",
            "https://[fd00::1]:8090",
            "null",
            "",
            "file://",
            "http://[",
        ),
        *("vscode-webview://localhost", "http://evil.test, http://127.0.0.1", "http://0.0.0.0:8090"),
    ],
)
@pytest.mark.parametrize(("method", "target"), TARGETS)
def test_another_sites_page_is_refused_on_every_path(method: bytes, target: bytes, origin: str) -> None:
    check = HeadCheck(lambda: 0.0, anonymous=LOCAL)
    with pytest.raises(Forbidden, match="another site's page") as refused:
        check.caller(None, method, target, headers(origin), 0.0)
    assert not origin or origin not in refused.value.message


@pytest.mark.parametrize(
    "origin", [None, "http://127.0.0.1:8090", "http://localhost:3000", "https://localhost", "http://[::1]:8090"]
)
@pytest.mark.parametrize(("method", "target"), TARGETS)
def test_programs_and_pages_of_this_machine_are_served(method: bytes, target: bytes, origin: str | None) -> None:
    check = HeadCheck(lambda: 0.0, anonymous=LOCAL)
    assert check.caller(None, method, target, headers(origin), 0.0).key is LOCAL


OTHER_NAMES = (
    "evil.test:8090",
    "evil.test",
    "localhost.evil.test:8090",
    "127.0.0.1.evil.test",
    "a.local",
    "[",
    "é.test",
)
OWN_NAMES = (
    *("127.0.0.1:8090", "localhost", "LOCALHOST:8090", "localhost.:8090", "app.localhost:8090", "[::1]:8090"),
    *("[::ffff:127.0.0.1]", "127.1:8090", "10.0.0.7:8090", "gateway:8090", "host.docker.internal:8090", ""),
)


@pytest.mark.parametrize("host", OTHER_NAMES)
@pytest.mark.parametrize(("method", "target"), TARGETS)
def test_a_page_that_lets_its_own_name_lead_here_is_refused(method: bytes, target: bytes, host: str) -> None:
    """By GET it sends no Origin, since for the browser gateway and page are the same site."""
    check = HeadCheck(lambda: 0.0, anonymous=LOCAL)
    for _ in range(2):
        assert check.caller(None, method, target, {b"host": b"127.0.0.1:8090"}, 0.0).key is LOCAL
        with pytest.raises(Forbidden, match="another site's name"):
            check.caller(None, method, target, {b"host": host.encode()}, 0.0)


@pytest.mark.parametrize("host", [*OWN_NAMES, None])
def test_a_name_that_no_site_can_have_is_served(host: str | None) -> None:
    check = HeadCheck(lambda: 0.0, anonymous=LOCAL)
    sent = {} if host is None else {b"host": host.encode()}
    assert check.caller(None, b"GET", b"/health", sent, 0.0).key is LOCAL


def test_a_port_for_other_machines_has_whatever_name_they_call_it_by() -> None:
    check = HeadCheck(lambda: 0.0, anonymous=LOCAL, is_local=False)
    sent = {b"host": b"gateway.monitoring.svc.cluster.local:9101"}
    assert check.caller(None, b"GET", b"/metrics", sent, 0.0).key is LOCAL


def test_where_keys_are_needed_a_page_that_has_one_may_be_anywhere() -> None:
    check = HeadCheck(lambda: 0.0, keys=NoKeys())
    sent = headers("https://app.example.com") | {b"authorization": b"Bearer vs_key"}
    assert check.caller(None, b"GET", b"/v1/models", sent, 0.0).secret == "vs_key"
