"""Shows a wait on standard error: a line that moves on a terminal, a line for each change elsewhere, and the log."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Self

from rich.markup import escape
from rich.status import Status

from vllm_service.cli.deploy_session import Session
from vllm_service.deployment.concealer import LONGEST_LINE
from vllm_service.deployment.situation import Situation, counted
from vllm_service.deployment.steps import Step
from vllm_service.deployment.worker_logs import LogLine
from vllm_service.runpod.workers import EndpointWorkers

#: Of a worker's id, as it stands before its lines.
_ID_CHARACTERS = 8


class Progress:
    """Implements first_answer.Watcher. To be entered; on a terminal it then holds the last line of the screen."""

    def __init__(self, session: Session, *, shows_log: bool = True) -> None:
        self._session = session
        self._shows_log = shows_log
        self._status: Status | None = None
        self._last = ""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self._session.progress.is_terminal:
            self._status = self._stack.enter_context(self._session.progress.status("..."))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._status = None

    def stepped(self, step: Step, is_done: bool) -> None:
        """Shows a step at its beginning and at its end."""
        if is_done:
            self._session.say(f"done: {step}")
        elif self._status is not None:
            self._status.update(escape(self._session.concealer.line(f"{step} ...")))

    def saw(self, situation: Situation, workers: EndpointWorkers | None, seconds: float) -> None:
        """Shows the workers' state."""
        now = f"{situation} ({counted(workers)})"
        if self._status is not None:
            self._status.update(escape(f"{seconds:.0f} s: {now}"))
        elif now != self._last:
            self._session.say(f"{seconds:.0f} s: {now}")
        self._last = now

    def logged(self, line: LogLine) -> None:
        """Shows one line of a worker's log."""
        if self._shows_log:
            self._session.say(shown(line))


def shown(line: LogLine) -> str:
    """Returns a log line as it is shown, before secrets are taken out. Of a worker's JSON line it is the message."""
    source = "system: " if line.source == "system" else ""
    return f"{line.worker_id[:_ID_CHARACTERS]} | {source}{_message(line.text)}"


def _message(text: str) -> str:
    if not text.startswith('{"time"') or len(text) > LONGEST_LINE:
        return text
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return text
    message = document.get("message") if isinstance(document, dict) else None
    return f"{document.get('level', '')} {message}" if isinstance(message, str) else text
