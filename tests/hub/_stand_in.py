"""A stand-in for the hub: a server on this machine that answers as the hub's API does, as far as it is used here."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    read_only: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        content = {**self.commits.get(self.refs.get(branch, ""), {}), **files}
        sha = hashlib.sha1(repr((branch, len(self.commits), sorted(content.items()))).encode()).hexdigest()
        self.commits[sha] = content
        self.refs[branch] = sha
        return sha


class Hub(ThreadingHTTPServer):
    """Repositories by name; ``requests`` keeps what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.private: set[str] = set()
        self.is_down = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        """Refuses connections, and closes those that are kept open."""
        self.is_down = True
        self.shutdown()
        self.server_close()

    def downloaded(self) -> list[str]:
        return sorted(
            path.split("/resolve/")[1].partition("/")[2]
            for verb, path in self.requests
            if verb == "GET" and "/resolve/" in path
        )


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.server.is_down:
            self.close_connection = True
            return
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.requests.append((self.command, path))
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            self._api(f"{owner}/{name}", rest, body)
        else:
            owner, name, _, revision, *rest = path.lstrip("/").split("/")
            self._resolve(f"{owner}/{name}", revision, "/".join(rest))

    def _create(self, asked: dict[str, object]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name.startswith("forbidden/"):
            self._error(403, "Forbidden")
        elif name in self.server.repositories:
            self._json({"url": f"{self.server.url}/{name}", "error": "exists"}, 409)
        else:
            self.server.repositories[name] = Repository()
            self.server.repositories[name].commit({".gitattributes": b""})
            if asked.get("private") or asked.get("visibility") == "private":
                self.server.private.add(name)
            self._json({"url": f"{self.server.url}/{name}", "id": name, "name": name})

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repository = self.server.repositories.get(name)
        if repository is None:
            self._error(404, "RepoNotFound")
        elif repository.gated:
            self._error(403, "GatedRepo")
        else:
            sha = repository.refs.get(revision, revision)
            if sha in repository.commits:
                return sha, repository.commits[sha]
            self._error(404, "RevisionNotFound")
        return None

    def _api(self, name: str, rest: list[str], body: bytes) -> None:
        what, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        found = self._find(name, revision)
        if found is None:
            return
        sha, files = found
        if what == "revision":
            siblings = [{"rfilename": file} for file in files]
            self._json({"id": name, "modelId": name, "sha": sha, "siblings": siblings, "private": False, "tags": []})
        elif what == "tree":
            self._json([{"type": "file", "path": f, "size": len(c), "oid": _oid(c)} for f, c in files.items()])
        elif what == "preupload":
            asked = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        elif what == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            new = {v["value"]["path"]: base64.b64decode(v["value"]["content"]) for v in lines if v["key"] == "file"}
            sha = self.server.repositories[name].commit(new, revision)
            self._json({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"})

    def _resolve(self, name: str, revision: str, file: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        sha, files = found
        if file not in files:
            self._error(404, "EntryNotFound")
        else:
            self._send(200, files[file], {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[file])}"'})

    def _json(self, document: object, status: int = 200) -> None:
        self._send(status, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
