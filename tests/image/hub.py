"""A hub with one gated repository, org/baked: the demo model, for whoever knows the token."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME, COMMIT = "org/baked", hashlib.sha1(b"org/baked").hexdigest()
DESCRIPTION_PATHS = (f"/api/models/{NAME}", f"/api/models/{NAME}/revision/main")
FILE_PREFIX = f"/{NAME}/resolve/{COMMIT}/"


@contextmanager
def serving(directory: Path, token: str) -> Iterator[str]:
    """The hub's URL, as long as it serves."""
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}

    class Handler(_Handler):
        hub_files, hub_token = files, token

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub_files: dict[str, bytes]
    hub_token: str

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {self.hub_token}":
            self._send(401, b"", {"X-Error-Code": "GatedRepo"}, with_body=with_body)
        elif path in DESCRIPTION_PATHS:
            siblings = [_described(name, content) for name, content in self.hub_files.items()]
            body = json.dumps({"id": NAME, "sha": COMMIT, "private": False, "siblings": siblings}).encode()
            self._send(200, body, {"Content-Type": "application/json"}, with_body=with_body)
        elif (content := self.hub_files.get(path.removeprefix(FILE_PREFIX))) is not None:
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self._send(200, content, headers, with_body=with_body)
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body=with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _described(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest()
    return {
        "rfilename": name,
        "size": len(content),
        "blobId": blob,
        "lfs": {"size": len(content), "sha256": sha256, "pointerSize": 134},
    }
