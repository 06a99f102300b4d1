"""A batch and its file survive any one prompt and any line: the prompt has its own error, the line is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vllm_service.client.runpod_provider import AT_ONCE, runpod
from vllm_service import Answer, BatchItem, RunPodVLLMService, errors
from vllm_service.client.batch import answer_all
from vllm_service.client.batch_file import BatchFile, keys_of
from vllm_service.client.payload import Payload
from vllm_service.testing import ReceivedRequest, Reply, completion, says


def echo(request: ReceivedRequest) -> Reply:
    return completion(f"answer to {request.last_text}")


async def batch(url: str, prompts: Any, **options: Any) -> list[BatchItem]:
    async with RunPodVLLMService(base_url=url, retry=AT_ONCE) as service:
        return await service.batch(prompts, **options)


def circle() -> list[Any]:
    held: list[Any] = []
    held.append({"role": held})
    return held


BAD: dict[str, Any] = {
    "half an emoji": "cut \ud83d",
    "half an emoji in a message": [{"role": "user", "content": "\udcff"}],
    "none": None,
    "number": 5,
    "bytes": b"hi",
    "mapping": {"role": "user", "content": "hi"},
    "texts": ["hi", "there"],
    "empty": "",
    "no message": [],
    "set": [{"role": "user", "content": {"hi"}}],
    "nan": [{"role": "user", "content": float("nan")}],
    "circle": circle(),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_prompt_has_its_own_error_and_all_others_their_answers(name: str, tmp_path: Path) -> None:
    prompts = ["one", BAD[name], "three"]
    file = tmp_path / "answers.jsonl"
    async with runpod(says("fine")) as server:
        for _ in range(2):  # the second time from the file
            items = await batch(server.url, prompts, file=file)
            assert [item.answer and item.answer.text for item in items] == ["fine", None, "fine"]
            assert isinstance(items[1].error, errors.InvalidRequest)
        assert len(server.requests) == 2
    assert items[0].from_file
    assert items[2].from_file


async def test_an_error_that_is_none_of_ours_costs_one_prompt_alone() -> None:
    async def answer(ask: Payload) -> Answer:
        if ask.question["prompt"] == "two":
            raise ZeroDivisionError
        return Answer("fine", "m", "p", None, None, 1.0)

    asks = [Payload.completion(prompt, "m", {}) for prompt in ("one", "two", "three")]
    items = await answer_all(asks, answer)
    assert [item.answer is not None for item in items] == [True, False, True]
    assert isinstance(items[1].error, errors.ServiceError)
    assert isinstance(items[1].error.__cause__, ZeroDivisionError)


KEY, OTHER = keys_of([Payload.completion(prompt, "m", {}) for prompt in ("one", "two")])
GOOD: dict[str, Any] = {
    "key": KEY,
    "index": 0,
    **{"text": "fine", "model": "m", "provider": "p", "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
    **{"cost_picousd": None, "latency_ms": 1.5},
}


def without(name: str) -> dict[str, Any]:
    return {member: value for member, value in GOOD.items() if member != name}


USAGES: list[Any] = [{}, [], 5, {"prompt_tokens": "1"}, {"x": 1}]
FOREIGN: list[bytes] = [
    *(json.dumps(document).encode() for document in (None, 5, [], {}, "x", [GOOD], {"key": KEY}, {"key": [KEY]})),
    *(json.dumps({**GOOD, "usage": usage}).encode() for usage in USAGES),
    *(json.dumps({**GOOD, name: value}).encode() for name, value in [("text", 5), ("latency_ms", "x"), ("key", 5)]),
    *(json.dumps(without(name)).encode() for name in ("key", "text", "model", "usage", "latency_ms")),
    json.dumps({**GOOD, "message": "none"}).encode(),
    *(json.dumps(GOOD).encode()[:size] for size in (1, 20, -1)),
    *(b"", b"\x00", b"\xff\xfe", b'"\xed\xa0\xbd"', b"{" * 50_000, b"[" * 50_000, b'{"key": NaN}', b"1" * 5000),
]


@pytest.mark.parametrize("number", range(len(FOREIGN)))
def test_a_line_that_is_no_answer_is_ignored(number: int, tmp_path: Path) -> None:
    file = tmp_path / "f"
    good = json.dumps({**GOOD, "key": OTHER}).encode()
    file.write_bytes(b"\n".join([FOREIGN[number], good, FOREIGN[number]]))
    with BatchFile(file) as opened:
        assert opened.answer(KEY) is None
        kept = opened.answer(OTHER)
        assert kept is not None
        assert kept.text == "fine"
        opened.write(KEY, BatchItem(0, answer=kept))
    with BatchFile(file) as again:  # the line after a torn one is whole
        assert again.answer(KEY) == kept


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_bytes_are_a_file_that_can_be_gone_on_with(lines: bytes | str, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    answer = Answer("fine", "m", "p", None, None, 1.0)
    with BatchFile(file) as opened:
        opened.write(KEY, BatchItem(0, answer=answer))
    with BatchFile(file) as again:
        assert again.answer(KEY) == answer


@pytest.mark.parametrize("text", ["half \ud83d of it", "two\u2028lines\n", "\x00"])
def test_an_answer_with_any_text_is_one_line_of_utf_8_and_is_read_as_it_was(text: str, tmp_path: Path) -> None:
    answer = Answer(text, "m", "p", None, None, 1.0, message={"content": text})
    with BatchFile(tmp_path / "f") as opened:
        opened.write(KEY, BatchItem(0, answer=answer))
    assert json.loads((tmp_path / "f").read_text("utf-8"))["text"] == text
    with BatchFile(tmp_path / "f") as again:
        assert again.answer(KEY) == answer


async def test_a_file_that_nothing_can_be_written_to_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with runpod(echo) as server:
        for file in (tmp_path, tmp_path / "missing" / "f", "/dev/zero", "a\x00b"):
            with pytest.raises(errors.ConfigurationError, match="file: ") as caught:
                await batch(server.url, ["one"], file=file)
            assert caught.value.param == "file"


async def test_a_progress_function_that_fails_is_an_error_of_ours() -> None:
    def fails(done: int, total: int) -> None:
        raise ZeroDivisionError

    async with runpod(echo) as server:
        with pytest.raises(errors.ServiceError, match="batch failed with ZeroDivisionError"):
            await batch(server.url, ["one"], progress=fails)


@pytest.mark.parametrize("prompts", ["text", b"bytes", None, 5, {"a": 1}])
async def test_prompts_that_are_no_list_are_refused_by_name(prompts: object) -> None:
    async with runpod(echo) as server:
        with pytest.raises(errors.InvalidRequest, match="prompts: expected"):
            await batch(server.url, prompts)
