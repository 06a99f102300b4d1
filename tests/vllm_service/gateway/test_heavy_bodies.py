"""Bodies of many small parts: what would make millions of objects on the event loop is refused or counted as bytes."""

from __future__ import annotations

import pytest

from vllm_service.errors import InvalidRequest
from vllm_service.gateway.operations import CHAT, COMPLETIONS
from vllm_service.gateway.request_body import MOST_OTHER_BYTES, MOST_PROMPTS, for_provider, read

LONG = b"a" * 20_000


def prompts(document: bytes) -> int:
    return read(b'{"model":"m","prompt":%b}' % document).written_answers(COMPLETIONS)


@pytest.mark.parametrize(
    ("document", "count"),
    [
        pytest.param(b'["%b","b"]' % LONG, 2, id="texts"),
        pytest.param(b'[ \n "%b\\"[[," , "\\\\"]' % LONG, 2, id="texts with quotes, brackets and backslashes"),
        pytest.param(b"[" + b"1," * 20_000 + b"1]", 1, id="token ids"),
        pytest.param(b"[[" + b"1," * 20_000 + b"1],[2],[]]", 3, id="lists of token ids"),
        pytest.param(b"[" + b'"a",' * (MOST_PROMPTS - 1) + b'"a"]', MOST_PROMPTS, id="as many as there may be"),
    ],
)
def test_a_long_list_of_prompts_is_counted_as_a_short_one(document: bytes, count: int) -> None:
    assert prompts(document) == count


@pytest.mark.parametrize("part", [b'"a"', b'"\\\\"', b"[]", b"[1]"])
def test_more_prompts_than_any_provider_takes_are_refused(part: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MOST_PROMPTS} prompts"):
        prompts(b"[" + (part + b",") * (3 * MOST_PROMPTS) + part + b"]")


def test_a_long_list_of_texts_and_others_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="texts and others"):
        prompts(b'["%b"%b]' % (LONG, b",0" * 5))


def test_a_body_of_many_members_is_not_written_anew() -> None:
    members = b",".join(b'"%x":1' % number for number in range(MOST_OTHER_BYTES // 5))
    body = b'{"model":"m","stream":true,%b}' % members
    with pytest.raises(InvalidRequest, match=f"longer than {MOST_OTHER_BYTES} bytes"):
        for_provider(body, read(body), CHAT, "other")


@pytest.mark.parametrize("name", [b"messages", b"tools", b"input", b"prompt"])
def test_a_body_with_one_long_member_is_written_anew(name: bytes) -> None:
    body = b'{"model":"m","stream":true,"%b":["%b"]}' % (name, b"a" * (2 * MOST_OTHER_BYTES))
    sent = for_provider(body, read(body), CHAT, "other")
    assert b'"stream_options":{"include_usage":true}' in sent
    assert b'"model":"other"' in sent
