"""A small Hugging Face Hub on this machine: enough of its protocol for real downloads, with resume."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    files: dict[str, Path]
    requests: list[tuple[str, str, str]]
    cuts: list[int]
    uploaded: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        asked = re.match(r"/api/models/(.+/.+)/(revision|tree)/", self.path)
        if asked is None:
            self._answer(with_body=True)
            return
        folder = f"{asked[1]}/resolve/main/"
        files = {
            name.removeprefix(folder): path for name, path in self.files.items() if name.startswith(folder)
        }
        if asked[2] == "tree":
            self._json(
                [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                    for name, path in files.items()
                ]
            )
        else:
            self._json({"id": asked[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append((self.command, self.path, ""))
        if self.path == "/api/repos/create":
            repository = json.loads(body)
            self._json({"url": f"https://huggingface.co/{repository['organization']}/{repository['name']}"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
                    ]
                }
            )
        else:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.uploaded[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._json(
                {
                    "commitUrl": "https://huggingface.co/me/mine/commit/0",
                    "commitOid": COMMIT,
                    "hookOutput": "",
                }
            )

    def _json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, with_body: bool) -> None:
        self.requests.append((self.command, self.path, self.headers.get("Range", "")))
        file = self.files.get(
            self.path.split("?")[0].lstrip("/").replace(f"resolve/{COMMIT}/", "resolve/main/")
        )
        if file is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        start = (
            int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        )
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if with_body and self.cuts:
            self.wfile.write(data[: self.cuts.pop()])
            self.close_connection = True
        elif with_body:
            self.wfile.write(data[start:])


@contextmanager
def hub_server(
    files: dict[str, Path],
    cut_first_download_at: int | None = None,
    uploaded: dict[str, bytes] | None = None,
) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Serve files under ``owner/name/resolve/main/filename``; gives the address and the list of requests.

    With `cut_first_download_at` the connection breaks after that many bytes of the first download. Files that are
    uploaded land in `uploaded`.
    """
    cuts = [] if cut_first_download_at is None else [cut_first_download_at]
    requests: list[tuple[str, str, str]] = []
    handler = type(
        "Handler",
        (_Handler,),
        {
            "files": files,
            "requests": requests,
            "cuts": cuts,
            "uploaded": {} if uploaded is None else uploaded,
        },
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
