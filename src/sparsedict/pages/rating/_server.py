"""`RatingServer`, which serves the rating page on the loopback interface."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlsplit

from sparsedict import checks
from sparsedict.pages.rating._answers import NAME, NAME_RULE, AnswerFile
from sparsedict.pages.rating._page import document
from sparsedict.pages.rating._set import RatingSet

HOST = "127.0.0.1"
MAX_BODY = 4096
TIMEOUT = 30
"""Seconds after which a connection without data is closed."""


class RatingServer:
    """A server of the rating page, for this machine only.

    The server listens on 127.0.0.1 and answers only requests to an address with a random token. Requests with another
    ``Host`` or ``Origin`` are rejected, so that pages of other sites can neither read nor write. Each answer is written
    to ``ratings-<rater>.json`` at once.

    Args:
        rating_set: The latents.
        folder: Folder of the answers and of the key, ``key.json``.
        rater: Name of the rater. By default the page asks for it.
        port: The port. By default a free one.

    Attributes:
        url: Address of the page.
        folder: Folder of the answers.

    Raises:
        FileExistsError: If the folder has the key of another set.
        OSError: If the port isn't free.
    """

    def __init__(
        self, rating_set: RatingSet, folder: str | os.PathLike[str], *, rater: str | None = None, port: int = 0
    ) -> None:
        checks.instance("rating_set", rating_set, RatingSet, "the result of `rating_set`")
        self.folder: Path = checks.path("folder", folder)
        self.token: str = secrets.token_urlsafe(24)
        self.rating_set: RatingSet = rating_set
        self.rater: str | None = rater
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if rater is not None:
            AnswerFile(self.folder, rater, rating_set)
        rating_set.write_key(self.folder)
        self._server = _Server((HOST, checks.at_least("port", port, 0)), _Handler)
        self._server.owner = self
        self.url: str = f"http://{HOST}:{self.port}/{self.token}/"

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def serve(self) -> None:
        """Serves until `close` is called in another thread, or until Ctrl-C."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stops the server. Answers are already written."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> RatingServer:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if self._thread is not None:
            self._thread.join()

    def answers(self, rater: str) -> list[dict[str, Any]]:
        """Returns the answers of a rater in the order in which they were given."""
        with self._lock:
            return list(AnswerFile(self.folder, rater, self.rating_set).grades.values())

    def answer(self, rater: str, identifier: str, grade: Any) -> list[dict[str, Any]]:
        """Writes an answer and returns all answers of the rater in the order in which they were given."""
        with self._lock:
            file = AnswerFile(self.folder, rater, self.rating_set)
            file.answer(identifier, grade)
            return list(file.grades.values())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = os.name != "nt"
    owner: RatingServer


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of the page and of the answers, and POST of one answer."""

    server: Any
    server_version = "sparsedict"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    def do_GET(self) -> None:
        self._run(self._get)

    def do_POST(self) -> None:
        self._run(self._post)

    def _run(self, act: Any) -> None:
        try:
            self._check_source()
            act(self._page_path())
        except _RefusedError as refusal:
            self.close_connection = True
            self._send_json({"error": str(refusal)}, refusal.status)
        except (ValueError, TypeError) as error:
            self.close_connection = True
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
        except OSError as error:
            self.close_connection = True
            self._send_json({"error": f"The file can't be written: {error}."}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _check_source(self) -> None:
        """Rejects requests of other sites, also under a name that resolves to this machine."""
        hosts = {f"{name}:{self.server.owner.port}" for name in (HOST, "localhost")}
        if self.headers.get_all("Host") is None or set(self.headers.get_all("Host", [])) - hosts:
            _refuse(HTTPStatus.FORBIDDEN, f"`Host` must be {HOST}:{self.server.owner.port}.")
        origins = self.headers.get_all("Origin", [])
        if set(origins) - {f"http://{host}" for host in hosts} or (self.command == "POST" and not origins):
            _refuse(HTTPStatus.FORBIDDEN, "`Origin` must be the address of this server.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            _refuse(HTTPStatus.FORBIDDEN, "Other sites must not send requests to this server.")

    def _page_path(self) -> str:
        token, slash, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(), self.server.owner.token.encode()):
            _refuse(HTTPStatus.NOT_FOUND, "There is no such page. Open the address that `sparsedict rate` printed.")
        return path

    def _get(self, path: str) -> None:
        owner = self.server.owner
        if path == "":
            nonce = secrets.token_urlsafe(16)
            settings = {"store": "server", "rater": owner.rater}
            self._send(document(owner.rating_set, settings, nonce).encode(), "text/html; charset=utf-8", nonce=nonce)
        elif path == "ratings":
            rater = parse_qs(urlsplit(self.path).query).get("rater", [""])[0]
            self._check_rater(rater)
            self._send_json({"ratings": owner.answers(rater)})
        else:
            _refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self, path: str) -> None:
        if path != "ratings":
            _refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
        if self.headers.get_content_type() != "application/json":
            _refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "`Content-Type` must be application/json.")
        body = self._body()
        if not isinstance(body, dict) or set(body) != {"rater", "id", "grade"}:
            _refuse(HTTPStatus.BAD_REQUEST, "The body must be an object with `rater`, `id` and `grade`.")
        self._check_rater(body["rater"])
        self._send_json({"ratings": self.server.owner.answer(body["rater"], body["id"], body["grade"])})

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            _refuse(HTTPStatus.LENGTH_REQUIRED, "`Content-Length` must be the number of bytes.")
        if int(length) > MAX_BODY:
            _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body must have at most {MAX_BODY} bytes.")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            _refuse(HTTPStatus.BAD_REQUEST, "The body must be JSON.")

    def _check_rater(self, rater: Any) -> None:
        if not isinstance(rater, str) or not NAME.fullmatch(rater):
            _refuse(HTTPStatus.BAD_REQUEST, f"The name must have {NAME_RULE}.")
        if self.server.owner.rater not in (None, rater):
            _refuse(HTTPStatus.FORBIDDEN, f"This server is for the rater {self.server.owner.rater!r}.")

    def _send_json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, nonce: str = "") -> None:
        source = f"'nonce-{nonce}'" if nonce else "'none'"
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            (
                "Content-Security-Policy",
                f"default-src 'none'; img-src data:; script-src {source}; style-src {source}; connect-src 'self'; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _refuse(status: HTTPStatus, message: str) -> NoReturn:
    raise _RefusedError(status, message)
