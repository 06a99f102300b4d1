"""Answers of an emulated model that come from a file of questions and answers, so that people read sensible words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The answer to every question that the file does not hold. It names its source, so that it is not taken for a model's.
UNKNOWN = "I am an emulated provider and have only the answers of a file. Try: {question}"


@dataclass(frozen=True, slots=True)
class KnownAnswers:
    """Answers by question. Letter case, spaces and punctuation at the end do not matter."""

    by_question: Mapping[str, str]
    #: The question that the answer to an unknown one proposes.
    example: str

    @classmethod
    def read(cls, path: Path) -> KnownAnswers:
        """Returns the answers of a JSON-lines file of `{"question", "answer"}`; other fields are ignored.

        The first answer to a question counts. Raises ValueError that names the line, and OSError.
        """
        pairs: dict[str, str] = {}
        example = ""
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            question, answer = _pair(line, f"{path}:{number}")
            example = example or question
            pairs.setdefault(_normalised(question), answer)
        if not pairs:
            raise ValueError(f"{path}: expected at least one line with question and answer")
        return cls(pairs, example)

    def to(self, body: Mapping[str, Any], prompt: str) -> str:
        """Returns the answer to the last message of a request, or to its whole prompt."""
        question = _last_text(body.get("messages") or body.get("input")) or prompt
        return self.by_question.get(_normalised(question)) or UNKNOWN.format(question=self.example)


def _pair(line: str, source: str) -> tuple[str, str]:
    try:
        document = json.loads(line)
        question, answer = document["question"], document["answer"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source}: expected an object with question and answer ({error})") from None
    if not (isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()):
        raise ValueError(f"{source}: question and answer must be texts that are not empty")
    return question, answer


def _normalised(question: str) -> str:
    return " ".join(question.casefold().split()).rstrip(" .?!")


def _last_text(messages: object) -> str | None:
    """Returns the text of the last message; None where there are no messages, or the last has none."""
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], Mapping):
        return None
    content = messages[-1].get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None
