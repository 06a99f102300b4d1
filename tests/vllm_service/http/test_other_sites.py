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

    def knows(self, secret: str) -> bool:
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


def test_where_keys_are_needed_a_page_that_has_one_may_be_anywhere() -> None:
    check = HeadCheck(lambda: 0.0, keys=NoKeys())
    sent = headers("https://app.example.com") | {b"authorization": b"Bearer vs_key"}
    assert check.caller(None, b"GET", b"/v1/models", sent, 0.0).secret == "vs_key"
