"""What callers ask of the router in headers, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.errors import InvalidRequest
from vllm_service.gateway.routing_headers import NAMES, NONE, RoutingHeaders, read

TARGET, CAP = b"x-latency-target-ms", b"x-max-cost-usd"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, NONE, id="nothing"),
        pytest.param({b"authorization": b"Bearer x", b"x-other": b"1"}, NONE, id="other headers"),
        pytest.param({TARGET: b"1500"}, RoutingHeaders(latency_target_seconds=1.5), id="a target"),
        pytest.param({TARGET: b"0.5"}, RoutingHeaders(latency_target_seconds=0.0005), id="half a millisecond"),
        pytest.param({CAP: b"0.01"}, RoutingHeaders(cap_picousd=10**10), id="a cent at most"),
        pytest.param({CAP: b"1e-12"}, RoutingHeaders(cap_picousd=1), id="a pico-dollar at most"),
        # What is finer is rounded down: a cap is never exceeded.
        pytest.param({CAP: b"0.0000000000019"}, RoutingHeaders(cap_picousd=1), id="less than two pico-dollars"),
        pytest.param({CAP: b"999999999"}, RoutingHeaders(cap_picousd=999_999_999 * 10**12), id="the most"),
        pytest.param({CAP: b"0.1"}, RoutingHeaders(cap_picousd=10**11), id="a tenth, exactly"),
        pytest.param({CAP: b" 5 "}, RoutingHeaders(cap_picousd=5 * 10**12), id="spaces around a number"),
        pytest.param({b"x-route-strategy": b"CHEAPEST"}, RoutingHeaders(strategy="CHEAPEST"), id="a strategy"),
        pytest.param({b"x-route-provider": b"own"}, RoutingHeaders(provider="own"), id="a provider"),
        pytest.param({b"x-route-provider": b"x" * 500}, RoutingHeaders(provider="x" * 128), id="a name without end"),
        pytest.param({b"x-route-provider": b"\xff"}, RoutingHeaders(provider="ÿ"), id="a name that is no ASCII"),
        pytest.param({b"x-route-provider": b"", b"x-route-strategy": b""}, NONE, id="empty names"),
        pytest.param({b"x-route-tags": b"private"}, RoutingHeaders(tags=frozenset({"private"})), id="a tag"),
        pytest.param(
            {b"x-route-tags": b" region:eu , ,needs:vision,region:eu,"},
            RoutingHeaders(tags=frozenset({"region:eu", "needs:vision"})),
            id="tags with spaces, gaps and twice the same",
        ),
        pytest.param({b"x-route-tags": b""}, NONE, id="no tags"),
        pytest.param({b"x-route-tags": b" , ,"}, NONE, id="commas without tags"),
        pytest.param(
            {b"x-route-tags": b",".join(b"%d" % number for number in range(16))},
            RoutingHeaders(tags=frozenset(map(str, range(16)))),
            id="the most tags",
        ),
        pytest.param(
            {TARGET: b"200", CAP: b"2", b"x-route-strategy": b"s", b"x-route-provider": b"p", b"x-route-tags": b"t"},
            RoutingHeaders(0.2, 2 * 10**12, "s", "p", frozenset({"t"})),
            id="all of them",
        ),
    ],
)
def test_the_headers_are_read(headers: dict[bytes, bytes], expected: RoutingHeaders) -> None:
    assert read(headers) == expected


@pytest.mark.parametrize("name", [TARGET, CAP])
@pytest.mark.parametrize(
    "sent",
    [
        b"", b"0", b"0.0", b"-1", b"-0", b"nan", b"sNaN", b"inf", b"-inf", b"1,5", b"5s", b"$5", b"0x10", b"1e",
        b"\xb2", b"\xff", b"1000000000", b"1e99999999999999999999", b"9" * 10_000, b"1\x002", b"true", b"null", b"5, 6",
    ],
)  # fmt: skip
def test_what_is_no_positive_number_is_refused_by_the_headers_name(name: bytes, sent: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read({name: sent})
    assert refused.value.param == name.decode()
    assert name.decode() in refused.value.message


def test_more_than_16_tags_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="at most 16") as refused:
        read({b"x-route-tags": b",".join(b"%d" % number for number in range(17))})
    assert refused.value.param == "x-route-tags"


def test_every_header_that_is_read_is_listed() -> None:
    assert set(NAMES) == {TARGET, CAP, b"x-route-provider", b"x-route-strategy", b"x-route-tags"}


@given(st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=40)))
def test_no_header_does_anything_but_be_understood_or_refused(headers: dict[bytes, bytes]) -> None:
    try:
        routing = read(headers)
    except InvalidRequest:
        return
    assert routing.cap_picousd is None or routing.cap_picousd >= 0
    assert routing.latency_target_seconds is None or 0 <= routing.latency_target_seconds < 10**6
    assert len(routing.tags) <= 16
