"""Request ids: the caller's own if it is harmless in a log, a header and a database, made otherwise."""

from __future__ import annotations

import os
import re
from itertools import count

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/=+-]{1,128}")


class RequestIds:
    """Ids that are unique without asking the kernel for each: 64 random bits of the process, and a counter."""

    def __init__(self) -> None:
        self._process = os.urandom(8).hex()
        self._numbers = count(1)

    def of(self, sent: bytes | None) -> str:
        """The caller's id if it is made of at most 128 plain characters, else a new one."""
        if sent is not None and _REQUEST_ID.fullmatch(sent):
            return sent.decode("ascii")
        return f"req-{self._process}-{next(self._numbers):x}"
