"""A hub on 127.0.0.1 that serves folders as repositories: what huggingface_hub asks for a download, and no more.

And what a test needs around it: a small model, and its files in the hub's cache or on a mirror.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.weights import Model

COMMIT = "c" * 40
LARGE = 1000  # bytes from which a file counts as large: named by its sha256, as the hub does
FILES = {"config.json": b'{"width": 3}', "model.safetensors": bytes(range(256)) * 20}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def blob_id(data: bytes) -> str:
    """What the hub calls a file by: git's id, or the sha256 of a large one."""
    return sha256(data) if len(data) >= LARGE else git_id(data)


def model(name: str = "tiny", **fields: Any) -> Model:
    plain = {
        "name": name, "repository": f"someone/{name}", "files": ["config.json", "model.safetensors"], "size_gb": 0.001,
        "size_from": "computed", "licence": "MIT", "role": "scorer", "needed_by": ["gsd-dino"],
    }  # fmt: skip
    return Model.model_validate({**plain, **fields})


def written(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def cached(caches: Path, found: Model, files: dict[str, bytes], commit: str = "a" * 40) -> Path:
    """A repository in the hub's cache, as the hub writes it; returns the snapshot."""
    folder = caches / "hub" / f"models--{found.repository.replace('/', '--')}"
    written(folder, {"refs/main": commit})
    for name, data in files.items():
        blob = folder / "blobs" / blob_id(data)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return folder / "snapshots" / commit


def mirrored(folder: Path, commit: str, files: dict[str, bytes] = FILES) -> Path:
    """Plain files with the notes that ``hf download --local-dir`` writes."""
    written(folder, files)
    notes = {f"{name}.metadata": f"{commit}\n{blob_id(data)}\n1.0\n" for name, data in files.items()}
    written(folder / ".cache" / "huggingface" / "download", notes)
    return folder


class Hub:
    """Repositories by id and commit, and what the hub was asked.

    Attributes:
        main: the commit that each repository's ``main`` is at.
        gated: repositories whose files are refused.
        torn: files whose next answer breaks off in the middle.
        asked: (method, file, Range header or None) of every request for a file.
        requests: method and path of every request, for files or not.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.main: dict[str, str] = {}
        self.requests: list[str] = []
        self.gated: set[str] = set()
        self.torn: set[str] = set()
        self.asked: list[tuple[str, str, str | None]] = []
        self.url = ""

    def add(self, repo: str, folder: Path, commit: str = COMMIT) -> None:
        """A commit with a folder's files; ``main`` moves on to it, and earlier commits stay."""
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        content = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
        self.repos.setdefault(repo, {})[commit] = content
        self.main[repo] = commit

    def at(self, repo: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        """(commit, files) that a revision stands for."""
        commit = self.main.get(repo, "") if revision == "main" else revision
        files = self.repos.get(repo, {}).get(commit)
        return None if files is None else (commit, files)

    def served(self, method: str = "GET") -> list[str]:
        return [file for asked, file, _ in self.asked if asked == method]


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub; ``url`` is its endpoint."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if api := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/(\w+))?", path):
                self.tell(api[1], api[2] or "revision", api[3] or "main")
            elif file := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", path):
                self.hand_out(file[1], file[2], file[3])
            elif path.startswith("/files/"):
                self.hand_out("files", "main", path.removeprefix("/files/"))
            else:
                self.refuse(404, "EntryNotFound")

        def tell(self, repo: str, what: str, revision: str) -> None:
            there = hub.at(repo, revision)
            if there is None:
                return self.refuse(404, "RepoNotFound")
            commit, files = there
            if what == "revision":
                siblings = [{"rfilename": file} for file in files]
                return self.send(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())
            tree = []
            for file, data in files.items():
                entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": git_id(data)}
                if len(data) >= LARGE:
                    entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
                tree.append(entry)
            return self.send(200, json.dumps(tree).encode())

        def hand_out(self, repo: str, revision: str, file: str) -> None:
            span = self.headers.get("Range")
            hub.asked.append((self.command, file, span))
            if repo in hub.gated:
                return self.refuse(403, "GatedRepo")
            commit, files = hub.at(repo, revision) or ("", {})
            data = files.get(file)
            if data is None:
                return self.refuse(404, "EntryNotFound")
            headers = {"ETag": f'"{blob_id(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            torn = self.command == "GET" and file in hub.torn
            hub.torn -= {file} if torn else set()
            return self.send(206 if start else 200, data[start:], headers, torn)

        def refuse(self, code: int, why: str) -> None:
            self.send(code, b"", {"X-Error-Code": why})

        def send(self, code: int, data: bytes, headers: dict[str, str] | None = None, torn: bool = False) -> None:
            self.send_response(code)
            for key, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if torn else data)
            if torn:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
