"""A model's own tokenizer: prompts in all their forms, with templates of all kinds and without one."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Tokenizer as Library

from vllm_service.domain.media import TOKENS_PER_IMAGE
from vllm_service.domain.usage import Usage
from vllm_service.gateway.answer_text import MOST_TEXT_BYTES, AnswerText
from vllm_service.gateway.context import RequestContext
from vllm_service.gateway.operations import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Operation
from vllm_service.gateway.token_counting import (
    LONGEST_PROMPT_BYTES,
    MOST_WAITING,
    PATIENCE_SECONDS,
    TOKENS_PER_MESSAGE,
    TokenCounting,
    Tokenizer,
    tokenizer_file,
)

DEMO = Path(__file__).resolve().parents[3] / "demo_model"
LIBRARY = Library.from_file(str(DEMO / "tokenizer.json"))
# Renders what it was given, so that a test sees it.
SHOWS_ALL = "{% for message in messages %}<{{ message.role }}>{{ message.content }}|{{ message.content }}{% endfor %}"
USER = {"role": "user", "content": "Hello there"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def tokens(text: str) -> int:
    return len(LIBRARY.encode(text, add_special_tokens=False).ids)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Without a template."""
    return made(tmp_path_factory.mktemp("plain"))


def made(folder: Path, config: dict[str, Any] | None = None, template: str | None = None) -> Tokenizer:
    shutil.copy(DEMO / "tokenizer.json", folder)
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return Tokenizer(folder)


def counted(tokenizer: Tokenizer, operation: Operation, fields: Any) -> int:
    return tokenizer.prompt_tokens(operation, json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("operation", "fields", "texts", "extra"),
    [
        pytest.param(CHAT, {"messages": [USER]}, ["Hello there"], 4, id="a message"),
        pytest.param(CHAT, {"messages": [USER, USER]}, ["Hello there"] * 2, 8, id="two messages"),
        pytest.param(CHAT, {"messages": []}, [], 0, id="no message"),
        pytest.param(CHAT, {"messages": [{"role": "user"}]}, [], 4, id="a message without content"),
        pytest.param(CHAT, {"messages": [{"role": "user", "content": None}]}, [], 4, id="null content"),
        pytest.param(CHAT, {"messages": [{"role": "user", "content": 7}]}, [], 4, id="content that is a number"),
        pytest.param(
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            ["a\nb"],
            4,
            id="content in parts",
        ),
        pytest.param(
            CHAT,
            {"messages": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "a"}, "b", 7, {}, IMAGE]}]},
            ["a"],
            4 + 2 * TOKENS_PER_IMAGE,
            id="images among parts of all kinds",
        ),
        pytest.param(
            CHAT, {"messages": [{"role": "user", "content": "Grüße, 東京 🚀"}]}, ["Grüße, 東京 🚀"], 4, id="unicode"
        ),
        pytest.param(RESPONSES, {"input": "Hello there"}, ["Hello there"], 4, id="a response's text"),
        pytest.param(RESPONSES, {"input": [USER]}, ["Hello there"], 4, id="a response's messages"),
        pytest.param(
            RESPONSES, {"input": "Hello", "instructions": "Be brief."}, ["Be brief.", "Hello"], 8, id="instructions"
        ),
        pytest.param(RESPONSES, {"input": "Hello", "instructions": None}, ["Hello"], 4, id="null instructions"),
        pytest.param(COMPLETIONS, {"prompt": "Hello there"}, ["Hello there"], 0, id="a prompt"),
        pytest.param(COMPLETIONS, {"prompt": ["a b", "c"]}, ["a b", "c"], 0, id="prompts"),
        pytest.param(COMPLETIONS, {"prompt": []}, [], 0, id="no prompts"),
        pytest.param(COMPLETIONS, {"prompt": ""}, [""], 0, id="an empty prompt"),
        pytest.param(COMPLETIONS, {"prompt": [1, 2, 3]}, [], 3, id="tokens"),
        pytest.param(COMPLETIONS, {"prompt": [[1, 2], [3]]}, [], 3, id="lists of tokens"),
        pytest.param(COMPLETIONS, {"prompt": [[1, 2], "a b"]}, ["a b"], 2, id="tokens and text"),
        pytest.param(EMBEDDINGS, {"input": ["a b", [1]]}, ["a b"], 1, id="inputs"),
    ],
)
def test_prompts_without_a_template(
    plain: Tokenizer, operation: Operation, fields: dict[str, Any], texts: list[str], extra: int
) -> None:
    assert counted(plain, operation, fields) == sum(map(tokens, texts)) + extra
    assert TOKENS_PER_MESSAGE == 4


@pytest.mark.parametrize(
    ("operation", "fields", "message"),
    [
        (COMPLETIONS, {}, "no prompt"),
        (COMPLETIONS, {"prompt": None}, "no prompt"),
        (COMPLETIONS, {"prompt": {"a": 1}}, "no prompt"),
        (COMPLETIONS, {"prompt": [1, None]}, "no prompt"),
        (CHAT, {}, "no messages"),
        (CHAT, {"messages": {"role": "user"}}, "no messages"),
        (CHAT, {"messages": ["Hello"]}, "no messages"),
        (RESPONSES, {"input": [1]}, "no messages"),
    ],
)
def test_a_body_that_says_nothing_is_a_value_error(
    plain: Tokenizer, operation: Operation, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        counted(plain, operation, fields)


@pytest.mark.parametrize(
    ("config", "template", "rendered"),
    [
        pytest.param({"chat_template": SHOWS_ALL}, None, "<user>Hello there|Hello there", id="in the configuration"),
        pytest.param(None, SHOWS_ALL, "<user>Hello there|Hello there", id="in a file of its own"),
        pytest.param({"chat_template": "x"}, SHOWS_ALL, "<user>Hello there|Hello there", id="in both: the file"),
        pytest.param(
            {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": SHOWS_ALL}]},
            None,
            "<user>Hello there|Hello there",
            id="the default of several",
        ),
        pytest.param(
            {},
            "{% if add_generation_prompt %}it begins{% endif %}",
            "it begins",
            id="the answer's beginning is asked for",
        ),
        pytest.param({"bos_token": "<s>"}, "{{ bos_token }}a", "<s>a", id="a special token"),
        pytest.param({"bos_token": {"content": "<s>"}}, "{{ bos_token }}a", "<s>a", id="a special token as an object"),
        pytest.param({"bos_token": None}, "{{ bos_token }}a", "a", id="a null token"),
        pytest.param({}, "{{ messages | tojson }}", json.dumps([USER]), id="as JSON"),
        pytest.param({}, "{{ {'a': '東'} | tojson }}", '{"a": "東"}', id="as JSON, in any script"),
        pytest.param({}, "{% if strftime_now('%Y') | int > 2000 %}now{% endif %}", "now", id="the date"),
        pytest.param({}, "{% for _ in [1, 2] %}{% break %}{% endfor %}a", "a", id="loop controls"),
        pytest.param({}, "  {% if true %}\na{% endif %}", "a", id="blocks are trimmed"),
    ],
)
def test_a_template_is_rendered_as_the_model_was_trained(
    tmp_path: Path, config: dict[str, Any] | None, template: str | None, rendered: str
) -> None:
    assert counted(made(tmp_path, config, template), CHAT, {"messages": [USER]}) == tokens(rendered)


@pytest.mark.parametrize(
    ("config", "template"),
    [
        pytest.param(None, None, id="none"),
        pytest.param({}, None, id="a configuration without"),
        pytest.param({"chat_template": None}, None, id="null"),
        pytest.param({"chat_template": [{"name": "tool_use", "template": "x"}]}, None, id="none is the default"),
        pytest.param({}, "{{ raise_exception('roles must alternate') }}", id="one that refuses"),
        pytest.param({}, "{{ messages[7].content.x }}", id="one that fails"),
        pytest.param({}, "{{ ''.__class__.__mro__ }}", id="one that reaches for what it may not"),
    ],
)
def test_without_a_template_that_works_the_text_is_counted(
    tmp_path: Path, config: dict[str, Any] | None, template: str | None
) -> None:
    tokenizer = made(tmp_path, config, template)
    assert counted(tokenizer, CHAT, {"messages": [USER]}) == tokens("Hello there") + TOKENS_PER_MESSAGE


def test_images_are_counted_beside_what_a_template_renders(tmp_path: Path) -> None:
    message = {"role": "user", "content": [IMAGE, {"type": "text", "text": "a b"}]}
    tokenizer = made(tmp_path, {}, SHOWS_ALL)
    assert counted(tokenizer, CHAT, {"messages": [message]}) == tokens("<user>a b|a b") + TOKENS_PER_IMAGE


@pytest.mark.parametrize(
    ("arguments", "rendered"),
    [('{"city": "Köln"}', "Köln"), ("{}", ""), ("", ""), (None, "")],
    ids=["an object", "empty", "an empty text", "null"],
)
def test_a_calls_arguments_reach_the_template_as_an_object(
    tmp_path: Path, arguments: str | None, rendered: str
) -> None:
    message = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]}
    tokenizer = made(tmp_path, {}, "a{{ messages[0].tool_calls[0].function.arguments.city }}")
    assert counted(tokenizer, CHAT, {"messages": [message]}) == tokens("a" + rendered)


def test_tools_reach_the_template(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, {}, "{{ tools | length }}")
    assert counted(tokenizer, CHAT, {"messages": [USER], "tools": [{}, {}, {}]}) == tokens("3")


@pytest.mark.parametrize("texts", [[], [""], ["Hello there"], ["a", "b", "東京 🚀"], ["word " * 20_000]], ids=len)
def test_texts_are_counted_each_for_itself(plain: Tokenizer, texts: list[str]) -> None:
    assert plain.count(texts) == sum(map(tokens, texts))


def test_a_tokenizer_is_a_file_or_the_folder_that_holds_it(tmp_path: Path) -> None:
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.json"
    assert tokenizer_file(tmp_path / "other.json") == tmp_path / "other.json"


class Counted:
    """A request that was answered, and the usage that it was given."""

    def __init__(self, body: bytes, operation: Operation = COMPLETIONS) -> None:
        self.request = SimpleNamespace(body=body)
        self.operation = operation
        self.usages: list[Usage] = []

    def count_again(self, prompt_tokens: int, answer_tokens: int) -> None:
        self.usages.append(Usage(prompt_tokens, answer_tokens, estimated=True))


def answered(*texts: str) -> AnswerText:
    choices = [{"index": index, "text": text} for index, text in enumerate(texts)]
    return AnswerText.whole(json.dumps({"choices": choices}).encode())


@pytest.mark.parametrize(
    ("operation", "body", "said", "usage"),
    [
        pytest.param(
            COMPLETIONS,
            b'{"prompt":"Hello there"}',
            answered("a b", "c"),
            Usage(tokens("Hello there"), tokens("a b") + tokens("c"), estimated=True),
            id="two choices",
        ),
        pytest.param(COMPLETIONS, b'{"prompt":[1,2]}', answered(), Usage(2, 0, estimated=True), id="no answer"),
        # Whatever came back, an embedding is no text.
        pytest.param(EMBEDDINGS, b'{"input":[1,2]}', answered("a"), Usage(2, 0, estimated=True), id="embeddings"),
    ],
)
async def test_what_the_provider_did_not_count_is_counted_and_marked(
    operation: Operation, body: bytes, said: AnswerText, usage: Usage
) -> None:
    call = Counted(body, operation)
    await TokenCounting().count(cast("RequestContext", call), DEMO, said)
    assert call.usages == [usage]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b'{"prompt":"a"}'.ljust(LONGEST_PROMPT_BYTES + 1), answered("a"), id="a prompt that is too long"),
        pytest.param(b'{"prompt":"a"}', answered("x" * MOST_TEXT_BYTES), id="an answer that is too long"),
        pytest.param(b'{"prompt":"SECRET-PROMPT"', answered("a"), id="a body that is cut"),
        pytest.param(b'{"other":"SECRET-PROMPT"}', answered("a"), id="a body without a prompt"),
    ],
)
async def test_where_it_cannot_be_counted_the_estimate_stays_and_no_prompt_is_logged(
    body: bytes, said: AnswerText, caplog: pytest.LogCaptureFixture
) -> None:
    call = Counted(body)
    await TokenCounting().count(cast("RequestContext", call), DEMO, said)
    assert call.usages == []
    assert "SECRET" not in caplog.text


async def test_a_prompt_of_the_most_bytes_is_still_counted() -> None:
    call = Counted(b'{"prompt":[1,2]}'.ljust(LONGEST_PROMPT_BYTES))
    await TokenCounting().count(cast("RequestContext", call), DEMO, answered("a"))
    assert call.usages == [Usage(2, tokens("a"), estimated=True)]


async def test_a_tokenizer_that_cannot_be_opened_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counting, call = TokenCounting(), Counted(b'{"prompt":[1]}')
    for _ in range(3):
        await counting.count(cast("RequestContext", call), tmp_path, answered("a"))
    assert call.usages == []
    assert len(caplog.records) == 1


async def test_of_more_than_64_at_once_the_others_keep_their_estimate() -> None:
    counting, calls = TokenCounting(), [Counted(b'{"prompt":[1]}') for _ in range(MOST_WAITING + 6)]
    await asyncio.gather(*(counting.count(cast("RequestContext", call), DEMO, answered("a")) for call in calls))
    assert [len(call.usages) for call in calls] == [1] * MOST_WAITING + [0] * 6
    await asyncio.gather(
        *(counting.count(cast("RequestContext", call), DEMO, answered("a")) for call in reversed(calls))
    )
    assert [len(call.usages) for call in calls] == [1] * 6 + [2] * (MOST_WAITING - 6) + [1] * 6
    assert (MOST_WAITING, LONGEST_PROMPT_BYTES) == (64, 4 * 1024 * 1024)


async def test_a_request_waits_for_no_long_prompts_of_others_and_keeps_its_estimate() -> None:
    counting = TokenCounting(patience_seconds=0.01)
    calls = [Counted(b'{"prompt":"%b"}' % (b"a b " * 750_000)), Counted(b'{"prompt":[1]}')]
    began = time.monotonic()
    await asyncio.gather(*(counting.count(cast("RequestContext", call), DEMO, answered("a")) for call in calls))
    waited = time.monotonic() - began
    assert [call.usages for call in calls] == [[], []]
    call = Counted(b'{"prompt":[1]}')
    async with asyncio.timeout(60):
        while not call.usages:  # until the thread is done with the long one
            await counting.count(cast("RequestContext", call), DEMO, answered("a"))
    assert waited < time.monotonic() - began
    assert PATIENCE_SECONDS == 3
