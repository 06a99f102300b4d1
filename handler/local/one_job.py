"""`python handler.py --test_input`: runs one job and prints its result, or its error, as one JSON document."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from handler.dispatch import Dispatcher
from handler.engine.protocol import Engine
from handler.errors import InvalidInput, WorkerError
from handler.outputs import WholeAnswer
from handler.settings import WorkerSettings

DEFAULT_TEST_INPUT = "test_input.json"
# Editors on Windows begin a file with it.
BYTE_ORDER_MARK = "\ufeff"


def load_job(test_input: str) -> dict[str, Any]:
    """Returns a job from JSON text, or from the file of that name; raises InvalidInput with what is wrong."""
    given = test_input.lstrip(BYTE_ORDER_MARK)
    text = given if given.lstrip().startswith(("{", "[")) else _read(Path(test_input)).lstrip(BYTE_ORDER_MARK)
    try:
        job = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"test input: not valid JSON: {error}") from error
    except RecursionError:
        raise InvalidInput("test input: nested too deeply") from None
    if not isinstance(job, dict) or "input" not in job:
        raise InvalidInput('test input: expected an object with "input", as in {"input": {"prompt": "Hello!"}}')
    return job


async def run_job(engine: Engine, settings: WorkerSettings, job: dict[str, Any]) -> dict[str, Any]:
    """Returns `{"output": ...}`, a list of pieces for a stream, or the error's own document. Stops the engine."""
    try:
        await engine.start()
        dispatcher = Dispatcher(engine, settings)
        outputs = [output async for output in dispatcher.outputs(dispatcher.parse(job["input"]))]
    except WorkerError as error:
        return error.to_json()
    finally:
        await engine.stop()
    match outputs:
        case [WholeAnswer(document)]:
            return {"output": document}
    return {"output": [piece.value for piece in outputs]}


def print_document(document: dict[str, Any], stream: TextIO) -> int:
    """Writes the document; returns the exit code, which is 0 only for a job that succeeded."""
    stream.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
    stream.flush()
    return 1 if "error" in document else 0


def print_answer(document: dict[str, Any], stream: TextIO) -> None:
    """Writes the text of a chat or a completion by itself, for a person; nothing for other documents."""
    match document:
        case {"output": {"choices": [{"message": {"content": str(answer)}}, *_]}}:
            stream.write(f"\nThe answer: {answer}\n")
        case {"output": {"choices": [{"text": str(answer)}, *_]}}:
            stream.write(f"\nThe answer: {answer.strip()}\n")


@contextmanager
def stdout_for_the_result() -> Iterator[TextIO]:
    """Gives the real stdout to the result. Everything else that is written to file descriptor 1 lands on stderr."""
    sys.stdout.flush()
    result_descriptor = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(result_descriptor, "w", encoding="utf-8") as stream:
            yield stream
    finally:
        sys.stdout.flush()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"test input: cannot read {str(path)!r} (a file name, or JSON text): {error}") from error
