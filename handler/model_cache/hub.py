"""The hub: lists the files of a revision and fetches them. Only `hub` and `hub_errors` import huggingface_hub.

Files come by plain HTTP with Range, so that a download goes on where a crash left it. `hf_hub_download` starts anew,
because it names its temporary files after the process.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from handler.errors import ModelUnavailable
from handler.model_cache import hub_errors
from handler.model_cache.manifest import is_inside

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger(__name__)

METADATA_SECONDS = 10.0


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it. A large file has a SHA-256, a small one git's hash of its blob."""

    path: str
    size_bytes: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Revision:
    """A revision as it stands at the moment: a commit and its files."""

    repository: str
    name: str
    commit: str
    files: tuple[HubFile, ...]


class Sink(Protocol):
    """Takes bytes: as much of a binary file as the client's download uses."""

    def write(self, block: bytes, /) -> int:
        """Appends the block."""

    def tell(self) -> int:
        """Returns the number of bytes so far."""

    def seek(self, position: int, /) -> int:
        """Goes back, to write anew."""

    def truncate(self) -> int:
        """Drops what lies behind the position."""


@dataclass(frozen=True)
class Hub:
    """An endpoint and the credentials for it.

    The token is sent to the endpoint alone and is never part of a message.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    offline: bool = False

    @property
    def host(self) -> str:
        """The host for messages, without a user name or password that the URL may hold."""
        parts = urlsplit(self.endpoint or "https://huggingface.co")
        return parts.hostname + (f":{parts.port}" if parts.port else "") if parts.hostname else "the hub"

    def revision(self, repository: str, revision: str) -> Revision:
        """Returns the commit and files of a branch, tag or commit; raises ModelRefused or ModelUnavailable."""
        if self.offline:
            raise ModelUnavailable("HF_HUB_OFFLINE is set, so the hub was not contacted")
        with hub_errors.translated(self._asked(repository, revision)):
            found = (
                _client()
                .HfApi(endpoint=self.endpoint, token=self._credentials)
                .model_info(repository, revision=revision, files_metadata=True, timeout=METADATA_SECONDS)
            )
            files = tuple(_described(sibling) for sibling in found.siblings or ())
            if not found.sha or not all(is_inside(file.path) for file in files):
                raise ModelUnavailable(f"{self.host} describes {repository} in a way that cannot be used")
        return Revision(repository, revision, found.sha, files)

    def download(self, revision: Revision, file: HubFile, sink: Sink, resume_bytes: int) -> None:
        """Appends the file's bytes from `resume_bytes` on; raises ModelRefused, ModelUnavailable or OSError (disk)."""
        from huggingface_hub.file_download import http_get

        with hub_errors.translated(self._asked(revision.repository, revision.name)):
            http_get(
                _client().hf_hub_url(revision.repository, file.path, revision=revision.commit, endpoint=self.endpoint),
                sink,  # type: ignore[arg-type]
                resume_size=resume_bytes,
                headers=_client().utils.build_hf_headers(token=self._credentials),
                expected_size=file.size_bytes,
                tqdm_class=_silent_bar(),
            )

    def _asked(self, repository: str, revision: str) -> hub_errors.Asked:
        return hub_errors.Asked(self.host, repository, revision, with_token=bool(self.token))

    @property
    def _credentials(self) -> str | bool:
        # False also keeps the client from using a token that a login has left on this machine.
        return self.token or False


def _described(sibling: Any) -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    size_bytes = sibling.lfs.size if sibling.lfs else sibling.size
    return HubFile(sibling.rfilename, int(size_bytes or 0), sha256, None if sha256 else sibling.blob_id)


def _client() -> ModuleType:
    import huggingface_hub

    return huggingface_hub


def _silent_bar() -> type[Any]:
    from huggingface_hub.utils.tqdm import tqdm

    class SilentBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": True}))  # type: ignore[no-untyped-call]

    return SilentBar
