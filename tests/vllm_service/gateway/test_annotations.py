"""cost_info and performance_info as they are spliced into answers: each number by hand, every other byte as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.gateway.context import cost_info, performance_info, provider_info, spliced

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLACE = provider_info("hosted", "cheapest", False)


def member_of(spliced_member: bytes) -> dict[str, Any]:
    document = json.loads(b'{"x":0' + spliced_member + b"}")
    assert document.pop("x") == 0
    (value,) = document.values()
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("costs", "dollars", "percentage"),  # dollars: the cost, the baseline, what was saved
    [
        pytest.param((1_600_000, 16_000_000), (1.6e-06, 1.6e-05, 1.44e-05), 90.0, id="savings of 90 %"),
        pytest.param((16_000_000, 1_600_000), (1.6e-05, 1.6e-06, -1.44e-05), -900.0, id="a loss"),
        pytest.param((0, 1_600_000), (0.0, 1.6e-06, 1.6e-06), 100.0, id="free"),
        pytest.param((1_600_000, 1_600_000), (1.6e-06, 1.6e-06, 0.0), 0.0, id="the same"),
        # 1/3 saved: 33.333... %, to three places.
        pytest.param((2, 3), (2e-12, 3e-12, 1e-12), 33.333, id="thirds"),
        pytest.param((None, 16), (None, 1.6e-11, None), None, id="unknown cost"),
        pytest.param((16, None), (1.6e-11, None, None), None, id="unknown baseline"),
        pytest.param((None, None), (None, None, None), None, id="nothing known"),
        # A share of nothing is unknown, the difference to it is not.
        pytest.param((16, 0), (1.6e-11, 0.0, -1.6e-11), None, id="a baseline of nothing"),
        pytest.param((0, 0), (0.0, 0.0, 0.0), None, id="nothing on nothing"),
        pytest.param((10**21, 2 * 10**21), (1e9, 2e9, 1e9), 50.0, id="dollars beyond 64 bits"),
    ],
)
@pytest.mark.parametrize("is_estimate", [False, True])
def test_what_a_request_cost_and_saved(
    costs: tuple[int | None, int | None],
    dollars: tuple[float | None, float | None, float | None],
    percentage: float | None,
    is_estimate: bool,
) -> None:
    assert member_of(cost_info(*costs, is_estimate)) == {
        "vllm_cost_usd": dollars[0],
        "openai_cost_usd": dollars[1],
        "savings_usd": dollars[2],
        "savings_percentage": percentage,
        "is_estimate": is_estimate,
        "cost_basis": None if costs[0] is None else "expected" if is_estimate else "booked",
    }


@pytest.mark.parametrize(
    ("measured", "told"),  # seconds in all, to the first token, tokens; milliseconds of both, tokens per second
    [
        pytest.param((0.5, 0.0625, 100), (500.0, 62.5, 200.0), id="a stream"),
        pytest.param((0.5, None, 100), (500.0, None, 200.0), id="a whole answer has no first token"),
        pytest.param((0.5, 0.0, 100), (500.0, 0.0, 200.0), id="a first token at once"),
        pytest.param((0.5, None, None), (500.0, None, None), id="unknown tokens have no speed"),
        pytest.param((0.5, None, 0), (500.0, None, None), id="no tokens have no speed"),
        pytest.param((0.0, None, 100), (0.0, None, None), id="no time has no speed"),
        pytest.param((-0.5, None, 100), (-500.0, None, None), id="a clock that went back has no speed"),
        pytest.param((3.0, None, 1), (3000.0, None, 0.333), id="to three places"),
        pytest.param((0.0000004, None, None), (0.0, None, None), id="less than a microsecond"),
    ],
)
@pytest.mark.parametrize("is_cached", [False, True])
def test_how_long_it_took(
    measured: tuple[float, float | None, int | None], told: tuple[float, float | None, float | None], is_cached: bool
) -> None:
    assert member_of(performance_info(*measured, is_cached, PLACE)) == {
        "inference_time_ms": told[0],
        "ttft_ms": told[1],
        "tokens_per_second": told[2],
        "cache_hit": is_cached,
        "quality_score": None,
        "provider": "hosted",
        "apple_silicon_optimized": False,
        "route_reason": "cheapest",
    }


@pytest.mark.parametrize("provider", [None, "hosted", 'quote " and \\', "東京", "\x00\n"])
@pytest.mark.parametrize("reason", ["", "cheapest", 'named "x"', "}{", "%s %b"])
@pytest.mark.parametrize("is_on_apple_silicon", [False, True])
def test_names_and_reasons_are_told_whatever_is_in_them(
    provider: str | None, reason: str, is_on_apple_silicon: bool
) -> None:
    told = member_of(performance_info(1.0, None, None, False, provider_info(provider, reason, is_on_apple_silicon)))
    assert (told["provider"], told["route_reason"]) == (provider, reason)
    assert told["apple_silicon_optimized"] is is_on_apple_silicon


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(b'{"a":1}', b'{"a":1,"b":2,"c":3}', id="an object"),
        pytest.param(b"{}", b'{"b":2,"c":3}', id="an empty object"),
        pytest.param(b"{ }", b'{ "b":2,"c":3}', id="an empty object with a space"),
        *(
            pytest.param(b"{%b}" % space, b'{%b"b":2,"c":3}' % space, id=f"an empty object with {space!r}")
            for space in (b"\t", b"\n", b"\r", b"  ")
        ),
        pytest.param(b"{\r\n\t}\n", b'{\r\n\t"b":2,"c":3}\n', id="an empty object on two lines"),
        pytest.param(b'{"a":1 }', b'{"a":1 ,"b":2,"c":3}', id="a space before its end"),
        pytest.param(b'{"a":1}\r\n\r\n', b'{"a":1,"b":2,"c":3}\r\n\r\n', id="line breaks after it"),
        pytest.param(b'{"a":{}}', b'{"a":{},"b":2,"c":3}', id="an empty object within it"),
        pytest.param(b'{"a":"{ "}', b'{"a":"{ ","b":2,"c":3}', id="a brace in a text"),
        pytest.param(b'data: {"a":"}"}\n\n', b'data: {"a":"}","b":2,"c":3}\n\n', id="an event"),
        pytest.param(b"data: {}\n\n", b'data: {"b":2,"c":3}\n\n', id="an event of an empty object"),
        pytest.param(b'{"a":"\xff"}', b'{"a":"\xff","b":2,"c":3}', id="bytes that are no UTF-8"),
    ],
)
def test_members_are_added_at_the_end_of_an_object(document: bytes, expected: bytes) -> None:
    assert spliced(document, b',"b":2', b',"c":3') == expected


@given(
    st.dictionaries(st.text(), JSON, max_size=4),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([b"", b" ", b"\n", b"\r\n\r\n"]),
    st.booleans(),
)
def test_any_object_keeps_its_members_and_gets_two_more(
    members: dict[str, Any], indent: int | None, after: bytes, as_text: bool
) -> None:
    members = {name: value for name, value in members.items() if not name.endswith("_info")}
    document = json.dumps(members, indent=indent, ensure_ascii=as_text).encode() + after
    added = cost_info(1, 4, False), performance_info(1.0, None, 2, False, PLACE)
    read = json.loads(spliced(document, *added))
    assert (read.pop("cost_info"), read.pop("performance_info")) == (member_of(added[0]), member_of(added[1]))
    assert read == members


@given(st.integers(0, 10**24), st.integers(1, 10**24))
def test_savings_are_the_exact_difference_before_it_becomes_a_float(cost: int, baseline: int) -> None:
    told = member_of(cost_info(cost, baseline, False))
    assert told["savings_usd"] == (baseline - cost) / 10**12
    assert told["savings_percentage"] == pytest.approx(100 * (baseline - cost) / baseline, abs=0.0005001)
