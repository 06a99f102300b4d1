"""Translates the hub client's exceptions into the worker's own errors, each with its remedy.

No message holds a token.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from handler.errors import ModelRefused, ModelUnavailable, WorkerError


@dataclass(frozen=True)
class Asked:
    """A request to the hub, as far as messages name it."""

    host: str
    repository: str
    revision: str
    with_token: bool


@contextmanager
def translated(asked: Asked) -> Iterator[None]:
    """Raises ModelRefused or ModelUnavailable instead of what the client raises; errors of the disk stay OSErrors."""
    from huggingface_hub import errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # the one of its HTTP library
    try:
        yield
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise _refusal(asked, error) or _answer(asked, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelUnavailable("HF_HUB_OFFLINE is set, so the hub was not contacted") from error
    except (http_error, ConnectionError, TimeoutError) as error:
        raise ModelUnavailable(f"{asked.host} does not answer: {type(error).__name__}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ModelUnavailable(f"{asked.host} sent fewer or more bytes than announced") from error


def is_full(error: OSError) -> bool:
    """Returns whether the disk, or its quota, is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _refusal(asked: Asked, error: Exception) -> ModelRefused | None:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return _gated(asked)
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelRefused(
            f"MODEL_REVISION: {asked.repository} has no revision {asked.revision!r} at {asked.host}: "
            "name a branch, tag or commit that is listed there",
            param="MODEL_REVISION",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _missing(asked)
    if isinstance(error, errors.HFValidationError):
        return ModelRefused(f"{asked.repository!r} is neither a directory nor a hub name (organisation/name)")
    return None


def _answer(asked: Asked, error: Exception) -> WorkerError:
    status: int = error.response.status_code  # type: ignore[attr-defined]  # HfHubHTTPError, the only one left
    if status == 401:
        return ModelRefused(
            f"HF_TOKEN: {asked.host} does not accept it for {asked.repository}: make a new one with read access",
            param="HF_TOKEN",
        )
    if status == 403:
        return _gated(asked)
    if status == 404:
        return ModelRefused(f"{asked.repository}: a file that belongs to it is gone from {asked.host}")
    return ModelUnavailable(f"{asked.host} answers with status {status}")


def _gated(asked: Asked) -> ModelRefused:
    token = "the account of HF_TOKEN has no access" if asked.with_token else "HF_TOKEN is not set"
    return ModelRefused(
        f"{asked.repository} is gated at {asked.host}, and {token}: accept its terms on its page there, "
        "and set HF_TOKEN to a token of that account with read access to gated repositories",
        param="HF_TOKEN",
    )


def _missing(asked: Asked) -> ModelRefused:
    token = "with the HF_TOKEN that is set" if asked.with_token else "without a token; a private one needs HF_TOKEN"
    return ModelRefused(
        f"{asked.host} has no repository {asked.repository!r} ({token}): check the spelling of the name"
    )
