"""Reads the bytes of a bill from a file, standard input or a URL. bill_records.py says what they mean."""

from __future__ import annotations

import sys
from http.client import BadStatusLine, HTTPConnection, HTTPSConnection, IncompleteRead, InvalidURL, LineTooLong
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vllm_service.domain.urls import is_plain_beyond_this_machine
from vllm_service.errors import ConfigurationError

#: More of a bill is not read, so that a wrong URL cannot fill the memory.
MAX_BYTES = 64 * 1024 * 1024
#: What http.client raises for an answer that is no HTTP.
NOT_HTTP = (BadStatusLine, IncompleteRead, InvalidURL, LineTooLong)


def read_bill(source: str, key: str | None, timeout_seconds: float = 30.0) -> bytes:
    """Returns the bill's bytes. source: a path, `-`, or an http(s) URL, to which `Authorization: Bearer key` is sent.

    Raises ConfigurationError, whose text never holds the key.
    """
    if source == "-":
        return sys.stdin.buffer.read(MAX_BYTES)
    if source.startswith(("http://", "https://")):
        return _get(urlsplit(source), key, timeout_seconds)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the bill cannot be read: {error.strerror}: {source}") from None


def _get(url: SplitResult, key: str | None, timeout_seconds: float) -> bytes:
    host = url.hostname or ""
    is_plain = url.scheme == "http"
    if key is not None and is_plain_beyond_this_machine(url.geturl()):
        raise ConfigurationError("the billing API's URL is http: the key would be readable on the way; use https")
    make = HTTPConnection if is_plain else HTTPSConnection
    try:
        connection = make(host, url.port, timeout=timeout_seconds)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except (OSError, ValueError, *NOT_HTTP) as error:
        raise ConfigurationError(f"the billing API at {host} cannot be reached: {type(error).__name__}") from None
    connection.close()
    if answer.status != 200:
        raise ConfigurationError(f"the billing API at {host} answered {answer.status}")
    return body
