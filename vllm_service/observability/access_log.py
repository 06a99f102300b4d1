"""The access log: one line for each request that has ended."""

from __future__ import annotations

import logging

from vllm_service.domain.requests import RequestRecord
from vllm_service.logs import FIELDS
from vllm_service.storage.ledger.rows import logged

_access = logging.getLogger("vllm_service.access")


def log_request(record: RequestRecord) -> None:
    """Logs a request at INFO: a recorder of the gateway. The line holds no prompt, no answer and no key."""
    if _access.isEnabledFor(logging.INFO):
        _access.info("request", extra={FIELDS: logged(record)})
