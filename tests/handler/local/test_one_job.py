"""A test job from the command line: what is read, what is printed, and the exit code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from handler.errors import EngineUnavailable, InvalidInput
from handler.local import one_job
from handler.settings import WorkerSettings
from tests.support import FakeEngine

SETTINGS = WorkerSettings(environment={})
JOB = {"input": {"prompt": "Hi"}}


def test_a_job_is_read_from_json_text_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(JOB))
    assert one_job.load_job(json.dumps(JOB)) == one_job.load_job(str(file)) == JOB


def test_a_byte_order_mark_is_no_part_of_the_job(tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text("\ufeff" + json.dumps(JOB), encoding="utf-8")
    assert one_job.load_job("\ufeff" + json.dumps(JOB)) == one_job.load_job(str(file)) == JOB


@pytest.mark.parametrize(
    ("test_input", "message"),
    [
        ('{"input": ', "not valid JSON"),
        ("[1]", 'expected an object with "input"'),
        ('{"prompt": "Hi"}', 'expected an object with "input"'),
        ("[" * 100_000, "nested too deeply"),
        ("no/such/file.json", "cannot read 'no/such/file.json'"),
    ],
)
def test_an_unreadable_test_input_says_what_is_wrong(test_input: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        one_job.load_job(test_input)


def test_a_file_that_is_no_utf8_says_so(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(InvalidInput, match="cannot read"):
        one_job.load_job(str(tmp_path / "job.json"))


async def test_a_plain_job_prints_its_document_and_succeeds() -> None:
    engine = FakeEngine(pieces=[b'{"choices": [{"text": " Hello"}]}'])
    document = await one_job.run_job(engine, SETTINGS, JOB)
    assert document == {"output": {"choices": [{"text": " Hello"}]}}
    assert engine.stopped
    assert one_job.print_document(document, io.StringIO()) == 0
    answer = io.StringIO()
    one_job.print_answer(document, answer)
    assert answer.getvalue() == "\nThe answer: Hello\n"


async def test_a_streaming_job_prints_the_list_of_its_pieces() -> None:
    engine = FakeEngine(pieces=[b"data: 1\n\n"], content_type="text/event-stream")
    assert await one_job.run_job(engine, SETTINGS, JOB) == {"output": ["data: 1\n\n"]}


async def test_a_failed_job_prints_its_error_and_fails() -> None:
    engine = FakeEngine(pieces=[b'{"error": {"message": "gone", "code": 404}}'], status=404)
    document = await one_job.run_job(engine, SETTINGS, JOB)
    assert document["status"] == 404
    stream = io.StringIO()
    assert one_job.print_document(document, stream) == 1
    assert json.loads(stream.getvalue()) == document


async def test_an_engine_that_does_not_start_is_a_failed_job_too() -> None:
    engine = FakeEngine(start_error=EngineUnavailable("no memory"))
    document = await one_job.run_job(engine, SETTINGS, JOB)
    assert (document["status"], engine.stopped) == (503, True)
