"""The hub: a model's config.json and the sizes of its weights. Only this module here imports huggingface_hub."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from vllm_service.deployment.model_files import MOST_CONFIG_BYTES, ModelFiles, config_of, of_directory, weights_of
from vllm_service.deployment.unknown import Unknown
from vllm_service.errors import ConfigurationError

METADATA_SECONDS = 10.0
_CONFIG = "config.json"


@dataclass(frozen=True)
class Hub:
    """An address and the credentials for it. The token is sent there alone, and is in no message."""

    #: None is huggingface.co.
    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    #: Ask nothing; only models of the client's own cache are known.
    offline: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str], *, offline: bool = False) -> Hub:
        """Returns the hub of HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, which are huggingface_hub's own variables."""
        token = environment.get("HF_TOKEN", "").strip() or environment.get("HUGGING_FACE_HUB_TOKEN", "").strip()
        is_offline = environment.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")
        return cls(environment.get("HF_ENDPOINT", "").strip() or None, token or None, offline or is_offline)

    @property
    def host(self) -> str:
        """The host for messages, without a user name or password that the URL may hold."""
        return urlsplit(self.endpoint or "https://huggingface.co").hostname or "the hub"

    def files(self, model: str, revision: str | None) -> ModelFiles | Unknown:
        """Returns what is known of a repository's files; Unknown where the hub does not answer.

        Raises ConfigurationError for a model that the worker could not load either: there is no such repository or
        revision, or the token does not open it.
        """
        if self.offline:
            return self._of_cache(model, revision)
        try:
            with self._refusals(model, revision):
                return self._described(model, revision)
        except _NoAnswer as fault:
            return Unknown(f"{self.host} does not answer ({fault}); name a directory with the model's files as --model")

    def _described(self, model: str, revision: str | None) -> ModelFiles:
        found = (
            _client()
            .HfApi(endpoint=self.endpoint, token=self._credentials)
            .model_info(model, revision=revision, files_metadata=True, timeout=METADATA_SECONDS)
        )
        sizes = {sibling.rfilename: _size(sibling) for sibling in found.siblings or ()}
        parameters = getattr(found.safetensors, "parameters", None)
        weights = weights_of(sizes, parameters if isinstance(parameters, Mapping) else None)
        return ModelFiles(f"{model} at {self.host}", found.sha, self._config(model, found.sha, sizes), weights)

    def _config(self, model: str, commit: str | None, sizes: Mapping[str, int]) -> Mapping[str, Any] | Unknown:
        if _CONFIG not in sizes:
            return Unknown(f"{model} has no config.json at {self.host}")
        if sizes[_CONFIG] > MOST_CONFIG_BYTES:
            return Unknown(f"the config.json of {model} is larger than {MOST_CONFIG_BYTES} bytes")
        from huggingface_hub.file_download import http_get  # noqa: PLC0415

        url = _client().hf_hub_url(model, _CONFIG, revision=commit, endpoint=self.endpoint)
        content = _Bounded()
        http_get(
            url,
            content,
            headers=_client().utils.build_hf_headers(token=self._credentials),
            expected_size=sizes[_CONFIG] or None,
            tqdm_class=_silent_bar(),
        )
        return config_of(content.getvalue(), f"the config.json of {model}")

    def _of_cache(self, model: str, revision: str | None) -> ModelFiles | Unknown:
        try:
            folder = _client().snapshot_download(model, revision=revision, local_files_only=True)
        except (_errors().LocalEntryNotFoundError, _errors().HFValidationError, OSError):
            return Unknown(f"the hub was not asked, and {model} is not in its client's cache")
        return of_directory(Path(folder))

    @contextmanager
    def _refusals(self, model: str, revision: str | None) -> Iterator[None]:
        errors = _errors()
        try:
            yield
        except errors.GatedRepoError:
            raise self._gated(model) from None
        except errors.RevisionNotFoundError:
            raise ConfigurationError(
                f"revision: {model} has no revision {revision!r} at {self.host}; name a branch, tag or commit",
                param="revision",
            ) from None
        except (errors.RepositoryNotFoundError, errors.HFValidationError):
            hint = "" if self.token else "; a private one needs HF_TOKEN"
            raise ConfigurationError(
                f"model: {self.host} has no repository {model!r}{hint}; check the name", param="model"
            ) from None
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise self._gated(model) from None
            raise _NoAnswer(f"status {status}") from None
        except (OSError, errors.HTTPError) as error:  # the client's own HTTP errors, and those of the network
            raise _NoAnswer(type(error).__name__) from None

    def _gated(self, model: str) -> ConfigurationError:
        token = "the account of HF_TOKEN has no access" if self.token else "HF_TOKEN is not set"
        return ConfigurationError(
            f"model: {model} is gated at {self.host}, and {token}; accept its terms there, and set HF_TOKEN to a token "
            "of that account",
            param="model",
        )

    @property
    def _credentials(self) -> str | bool:
        # False also keeps the client from using a token that a login has left on this machine.
        return self.token or False


class _NoAnswer(Exception):
    """The hub cannot be reached, or has a fault of its own."""


class _Bounded(io.BytesIO):
    def write(self, block: Any, /) -> int:
        if self.tell() + len(block) > MOST_CONFIG_BYTES:
            raise OSError("more bytes than announced")
        return super().write(block)


def _size(sibling: Any) -> int:
    size = sibling.lfs.size if sibling.lfs else sibling.size
    return int(size or 0)


def _client() -> ModuleType:
    # Not at the top: the import takes half a second, and commands that need no hub work without the library.
    import huggingface_hub  # noqa: PLC0415

    return huggingface_hub


def _errors() -> ModuleType:
    from huggingface_hub import errors  # noqa: PLC0415

    return errors


def _silent_bar() -> type[Any]:
    from huggingface_hub.utils.tqdm import tqdm  # noqa: PLC0415

    class SilentBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": True}))  # type: ignore[no-untyped-call]

    return SilentBar
