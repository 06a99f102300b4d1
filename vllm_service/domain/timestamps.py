"""Moments as text: RFC 3339, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_seconds(text: str) -> float:
    """Seconds since 1970 of a date, or of a date and a time; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def rfc3339(seconds: float) -> str:
    """Of seconds since 1970, to the millisecond: `2026-11-21T18:40:00.000Z`."""
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
