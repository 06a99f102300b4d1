"""Timestamps as text: RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_seconds(text: str) -> float:
    """Returns the seconds since 1970 of a date, or of a date and time; UTC if it names no zone. Raises ValueError."""
    read = datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()


def rfc3339(seconds: float) -> str:
    """Returns the text of seconds since 1970, to the millisecond: `2026-11-21T18:40:00.000Z`."""
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
