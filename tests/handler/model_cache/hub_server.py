"""A hub on this machine: as much of the hub's HTTP API as its client uses to list and fetch files, with faults.

python -m tests.handler.model_cache.hub_server --repository org/demo --directory demo_model --port 8099
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MODEL_ROUTE = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
FILE_ROUTE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
LARGE_BYTES = 4096  # files from this size on are stored as large files, with a SHA-256
BLOCK_BYTES = 64 << 10


@dataclass
class Repository:
    """Files by commit, and what the branches mean at the moment."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Mapping[str, bytes], ref: str = "main") -> str:
        """A new commit, at the head of the branch."""
        seed = json.dumps([len(self.commits), sorted(files)]).encode()
        commit = hashlib.sha1(seed).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        return commit

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name means."""
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """Happens to the next `times` requests whose path ends so.

    status: answer with it; cut_after_bytes: close the connection in the middle; corrupt: flip a bit of the content.
    """

    path: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    corrupt: bool = False
    ignore_range: bool = False


@dataclass
class HubServer:
    """What it serves, what goes wrong, and what was asked; `token` is the only one it knows, where any is needed."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_right"
    bytes_per_second: float | None = None
    faults: deque[Fault] = field(default_factory=deque)
    on_request: Callable[[str], None] = lambda path: None
    asked: list[tuple[str, str]] = field(default_factory=list)
    sent_bytes: Counter[str] = field(default_factory=Counter)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, name: str, files: Mapping[str, bytes]) -> Repository:
        """A repository with one commit on main."""
        repository = self.repositories[name] = Repository()
        repository.commit(files)
        return repository

    def take_fault(self, path: str) -> Fault | None:
        """The fault that this request meets."""
        with self.lock:
            for fault in self.faults:
                if path.endswith(fault.path) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    @contextmanager
    def running(self, port: int = 0) -> Iterator[HubServer]:
        """Serves until the block ends."""
        hub = self

        class Handler(_Handler):
            server_hub = hub

        server = _Server(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: HubServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        with hub.lock:
            hub.asked.append((self.command, path))
        hub.on_request(path)
        fault = hub.take_fault(path)
        if fault and fault.status:
            self._refuse(fault.status, **fault.headers)
        elif match := MODEL_ROUTE.fullmatch(path):
            self._describe(match[1], match[2] or "main")
        elif match := FILE_ROUTE.fullmatch(path):
            self._send_file(match[1], match[2], match[3], fault, with_body=with_body)
        else:
            self._refuse(404, **{"X-Error-Code": "RepoNotFound"})

    def _repository(self, name: str) -> Repository | None:
        """The repository, or None when a refusal was sent."""
        hub, authorization = self.server_hub, self.headers.get("Authorization")
        repository = hub.repositories.get(name)
        if authorization not in (None, f"Bearer {hub.token}"):
            self._refuse(401, **{"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None:
            self._refuse(404 if authorization else 401, **{"X-Error-Code": "RepoNotFound"})
        elif repository.gated and authorization is None:
            self._refuse(401, **{"X-Error-Code": "GatedRepo"})
        else:
            return repository
        return None

    def _describe(self, name: str, revision: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        if (commit := repository.resolve(revision)) is None:
            self._refuse(404, **{"X-Error-Code": "RevisionNotFound"})
            return
        files = [_described(path, content) for path, content in repository.commits[commit].items()]
        body = json.dumps({"id": name, "sha": commit, "private": False, "siblings": files}).encode()
        self._head(200, len(body), **{"Content-Type": "application/json"})
        self.wfile.write(body)

    def _send_file(self, name: str, revision: str, path: str, fault: Fault | None, *, with_body: bool) -> None:
        if (repository := self._repository(name)) is None:
            return
        commit = repository.resolve(revision)
        content = repository.commits[commit].get(path) if commit else None
        if content is None:
            self._refuse(404, **{"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": str(commit)}
        if fault and fault.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0 if fault and fault.ignore_range else _start(self.headers.get("Range"))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if start else 200, len(content) - start, **headers)
        if with_body:
            self._send(path, content[start:], fault.cut_after_bytes if fault else None)

    def _send(self, path: str, content: bytes, cut_after_bytes: int | None) -> None:
        hub = self.server_hub
        whole = content if cut_after_bytes is None else content[:cut_after_bytes]
        for start in range(0, len(whole), BLOCK_BYTES):
            block = whole[start : start + BLOCK_BYTES]
            try:
                self.wfile.write(block)
            except OSError:  # the client was killed
                self.close_connection = True
                return
            with hub.lock:
                hub.sent_bytes[path] += len(block)
            if hub.bytes_per_second:
                time.sleep(len(block) / hub.bytes_per_second)
        if cut_after_bytes is not None:
            self.close_connection = True
            self.connection.close()

    def _refuse(self, status: int, **headers: str) -> None:
        self._head(status, 0, **headers)

    def _head(self, status: int, size_bytes: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(size_bytes), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _described(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    described: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
    if len(content) >= LARGE_BYTES:
        sha256 = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return described


def _start(requested: str | None) -> int:
    match = re.match(r"bytes=(\d+)-", requested or "")
    return int(match[1]) if match else 0


def files_below(directory: Path) -> dict[str, bytes]:
    """A directory's files, as those of a repository."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def main() -> None:
    """Serves a directory until it is interrupted, and prints each request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", required=True, help="organisation/name")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8099)
    options = parser.parse_args()
    hub = HubServer(on_request=lambda path: print(path, file=sys.stderr, flush=True))  # noqa: T201
    hub.add(options.repository, files_below(options.directory))
    with hub.running(options.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
