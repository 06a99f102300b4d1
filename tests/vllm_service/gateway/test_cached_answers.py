"""Which requests are the same, and which may be answered from the cache at all."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.operations import CHAT, COMPLETIONS, EMBEDDINGS, Operation
from vllm_service.gateway.request_body import RequestFields, read
from vllm_service.gateway.respond import cache_key

BODY = {"model": "alias", "temperature": 0, "messages": [{"role": "user", "content": "Hi"}], "seed": 1}


def key_of(
    body: bytes | dict[str, Any],
    wish: bytes | None = None,
    operation: Operation = CHAT,
    *,
    name: str = "small",
    fields: RequestFields | None = None,
) -> bytes | None:
    """Of a request for `alias`, which the model `name` answers to. fields: where they are not to be read here."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = SimpleNamespace(
        headers={} if wish is None else {b"x-cache": wish},
        fields=fields or read(sent),
        operation=operation,
        request=SimpleNamespace(body=sent),
        model=SimpleNamespace(name=name),
    )
    return cache_key(cast("RequestContext", call))


@pytest.mark.parametrize(
    ("temperature", "operation", "wish", "is_cached"),
    [
        pytest.param(0, CHAT, None, True, id="at temperature 0"),
        pytest.param(0.0, CHAT, None, True, id="at temperature 0.0"),
        pytest.param(-0.0, COMPLETIONS, None, True, id="at temperature -0.0"),
        pytest.param(None, CHAT, None, False, id="at no temperature"),
        pytest.param(0.0001, CHAT, None, False, id="just above 0"),
        pytest.param(1, CHAT, None, False, id="at temperature 1"),
        pytest.param(None, EMBEDDINGS, None, True, id="embeddings"),
        pytest.param(1, CHAT, b"on", True, id="on wish"),
        pytest.param(0, CHAT, b"off", False, id="off"),
        pytest.param(None, EMBEDDINGS, b"off", False, id="embeddings, off"),
        pytest.param(1, CHAT, b"ON", False, id="another word is no wish"),
        pytest.param(0, CHAT, b"", True, id="an empty wish changes nothing"),
    ],
)
def test_what_may_be_given_again(
    temperature: float | None, operation: Operation, wish: bytes | None, is_cached: bool
) -> None:
    key = key_of({**BODY, "temperature": temperature}, wish, operation)
    assert (key is not None) is is_cached
    assert key is None or len(key) == 32


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(json.dumps(BODY, indent=3).encode(), id="white space"),
        pytest.param(json.dumps(BODY, sort_keys=True).encode(), id="another order"),
        pytest.param({**BODY, "user": "me"}, id="a user"),
        pytest.param({**BODY, "metadata": {"a": "b"}}, id="metadata"),
        pytest.param({**BODY, "safety_identifier": "x"}, id="a safety identifier"),
        pytest.param({**BODY, "stream_options": {"include_usage": True}}, id="options of a stream"),
        pytest.param({**BODY, "stream": False}, id="a stream that is none"),
        pytest.param({**BODY, "stream": None}, id="a null stream"),
        pytest.param({**BODY, "model": "small"}, id="the model's own name"),
        pytest.param(json.dumps(BODY).replace("Hi", "\\u0048i").encode(), id="an escaped character"),
        pytest.param(b'{"seed":2,' + json.dumps(BODY).encode()[1:], id="twice the same member: the last"),
    ],
)
def test_the_same_request_has_the_same_key(same: bytes | dict[str, Any]) -> None:
    assert key_of(same) == key_of(BODY)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({**BODY, "seed": 2}, id="another seed"),
        pytest.param({**BODY, "max_tokens": None}, id="a member that is null"),
        pytest.param({**BODY, "stream": True}, id="a stream"),
        pytest.param({**BODY, "messages": [{"role": "user", "content": "hi"}]}, id="another case"),
        pytest.param({**BODY, "messages": BODY["messages"] * 2}, id="another message"),  # type: ignore[operator]
        pytest.param(
            {**BODY, "messages": [{"role": "user", "content": "Hi", "user": "x"}]}, id="a user further within"
        ),
    ],
)
def test_another_request_has_another_key(other: dict[str, Any]) -> None:
    assert key_of(other) not in (None, key_of(BODY))


def test_another_model_or_operation_has_another_key() -> None:
    assert len({key_of(BODY), key_of(BODY, name="large"), key_of(BODY, operation=COMPLETIONS)}) == 3


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"x" * 600_000, id="long"),
        pytest.param(b'","'.join([b"x"] * 6000), id="of many parts"),
    ],
)
def test_a_body_that_would_take_long_to_write_anew_is_cached_by_its_bytes(more: bytes) -> None:
    body = b'{"model":"alias","temperature":0,"messages":["%b"]}' % more
    fields = read(body)
    assert key_of(body, fields=fields) == key_of(body, fields=fields) is not None
    others = (key_of(body + b" ", fields=fields), key_of(body, fields=fields, name="large"))
    assert key_of(body, fields=fields) not in others


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"1e999", id="a float beyond all floats"),
        pytest.param(b"1" + b"0" * 5000, id="an integer of 5,000 digits"),
        # Where the body was read, the stack was shorter: what could be skipped there is too deep here.
        pytest.param(b"[" * 2000 + b"]" * 2000, id="nested too deeply"),
    ],
)
def test_what_cannot_be_read_in_whole_is_not_cached(value: bytes) -> None:
    body = b'{"model":"alias","temperature":0,"made_up":%b}' % value
    assert key_of(body, fields=read(b'{"model":"alias","temperature":0}')) is None


@pytest.mark.parametrize("value", [2**64, 10**400, -(10**400), 0.1, "\x00", [[[]]]], ids=repr)
def test_a_member_that_is_not_looked_at_is_a_part_of_the_key(value: object) -> None:
    assert key_of({**BODY, "made_up": value}) not in (None, key_of(BODY))


@given(st.permutations(sorted(BODY)))
def test_the_order_of_members_does_not_matter(names: list[str]) -> None:
    assert key_of({name: BODY[name] for name in names}) == key_of(BODY)
