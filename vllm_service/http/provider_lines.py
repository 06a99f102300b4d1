"""Makes the header lines that every request to one provider has."""

from __future__ import annotations

from vllm_service.catalog.model import Provider
from vllm_service.version import __version__


def lines_of(provider: Provider, netloc: str) -> bytes:
    """Returns the header lines of every request. Raises ValueError for what cannot stand in a header."""
    key = provider.api_key or ""
    if not f"{netloc}{key}{provider.base_url}".isprintable():  # a line's end would begin another header
        raise ValueError("unprintable")
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    lines = (
        f"host: {netloc}\r\n{authorization}content-type: application/json\r\n"
        f"accept-encoding: identity\r\nuser-agent: vllm-service/{__version__}\r\n"
    )
    return lines.encode("latin-1")
