"""What keeps an organisation's prompts apart in providers' caches: which members are sent, and what is in them."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from vllm_service.catalog.model import PromptCache
from vllm_service.gateway.operations import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Operation
from vllm_service.gateway.request_body import CacheSalts, for_provider, read

SECRET = b"the secret of one installation, of 32 bytes or so"
#: What vLLM takes for a salt: at most 128 characters, and none of `@`, `/`, `\\` and NUL.
TAKEN_BY_VLLM = re.compile(r"[A-Za-z0-9_-]{43}")


def sent(
    body: bytes | dict[str, Any],
    organisation: str = "acme",
    *,
    cache: PromptCache = PromptCache.VLLM,
    operation: Operation = CHAT,
    salts: CacheSalts | None = None,
    model: str = "there",
) -> bytes:
    """What a provider gets."""
    raw = json.dumps({"model": "m", **body}).encode() if isinstance(body, dict) else body
    fields = read(raw)
    member = (salts or CacheSalts(SECRET)).member(cache, operation, organisation, fields)
    return for_provider(raw, fields, operation, model, cache=member)


def salt_of(body: bytes | dict[str, Any], organisation: str = "acme", **more: Any) -> str:
    salt: str = json.loads(sent(body, organisation, **more))["cache_salt"]
    return salt


@pytest.mark.parametrize("operation", [CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS], ids=lambda operation: operation.name)
@pytest.mark.parametrize("stream", [False, True])
def test_each_operation_carries_a_salt_that_vllm_takes(operation: Operation, stream: bool) -> None:
    assert TAKEN_BY_VLLM.fullmatch(salt_of({"stream": stream, "seed": 1.5}, operation=operation))


def test_no_two_organisations_have_the_same_salt_whatever_they_send_themselves() -> None:
    organisations = ["acme", "zeta", "", "acme\x00", 'acme","', "ACME"]
    own: list[Any] = [None, "", "acme", "zeta", salt_of({}, "zeta"), '["vllm","zeta",""]', "x" * 200, 5, ["zeta"]]
    salts = [
        (organisation, str(value), salt_of({"cache_salt": value}, organisation))
        for organisation, value in itertools.product(organisations, own)
    ]
    assert len({salt for _, _, salt in salts}) == len(salts)


def test_a_null_salt_of_a_caller_is_none() -> None:
    assert salt_of({"cache_salt": None}) == salt_of({})


def test_a_salt_is_the_same_for_all_replicas_and_another_one_in_another_installation() -> None:
    assert salt_of({}) == salt_of({}, salts=CacheSalts(SECRET))
    assert salt_of({}) != salt_of({}, salts=CacheSalts(b"another"))
    assert salt_of({}, salts=CacheSalts()) != salt_of({}, salts=CacheSalts())


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","cache_salt":"theirs"}',
        b'{"cache_\\u0073alt":"theirs","model":"m"}',
        b'{"cache_salt":"first","model":"m","cache_salt":"theirs"}',
        b' { "model" : "m" , "cache_salt" : "theirs" , "messages" : [{"content" : "\\"cache_salt\\":1"}] } \n',
    ],
)
def test_a_callers_own_salt_is_replaced_however_it_is_written(body: bytes) -> None:
    passed = sent(body)
    salt = json.loads(passed)["cache_salt"]
    assert TAKEN_BY_VLLM.fullmatch(salt)
    assert salt == salt_of({"cache_salt": "theirs"})
    pairs = json.loads(passed, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
    assert pairs.count("cache_salt") == 1


def test_the_rest_of_a_body_stays_byte_for_byte() -> None:
    body = b' {"model":"m", "seed": 1.50, "messages":[{"content":"{\\"cache_salt\\": 1}"}] }\n'
    salt = salt_of(body).encode()
    assert sent(body, model="m") == body.replace(b"{", b'{"cache_salt":"%b",' % salt, 1)
    assert sent(body) == body.replace(b"{", b'{"cache_salt":"%b",' % salt, 1).replace(b'"m"', b'"there"')


@pytest.mark.parametrize(
    ("operation", "is_sent"), [(CHAT, True), (RESPONSES, True), (COMPLETIONS, False), (EMBEDDINGS, False)]
)
def test_openai_gets_its_own_member_where_it_takes_one(operation: Operation, is_sent: bool) -> None:
    document = json.loads(sent({}, cache=PromptCache.OPENAI, operation=operation))
    assert ("prompt_cache_key" in document) is is_sent
    assert "cache_salt" not in document


def test_a_shared_cache_gets_nothing_and_a_callers_own_member_passes() -> None:
    body = b'{"model":"m","cache_salt":"theirs","prompt_cache_key":"k"}'
    assert sent(body, cache=PromptCache.SHARED, model="m") is body


def test_what_a_caller_has_divided_begins_otherwise_for_the_router() -> None:
    messages = [{"role": "user", "content": "x" * 5000}]
    prefixes = [
        read(json.dumps({"model": "m", "messages": messages, **more}).encode()).prefix
        for more in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"prompt_cache_key": "c"})
    ]
    assert len(set(prefixes)) == 4


def test_the_salts_that_are_kept_are_bounded() -> None:
    salts = CacheSalts(SECRET)
    for number in range(10_001):
        salt_of({}, f"organisation {number}", salts=salts)
    assert len(salts._salts) == 1
