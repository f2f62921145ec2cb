"""The server refuses other sites, writes every answer at once, and never damages a file."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsedict.analysis import ratings
from sparsedict.pages.rating import AnswerFile, RatingServer
from sparsedict.storage import StorageError

from ._made import made_set

SET = made_set()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RatingServer]:
    with RatingServer(SET, tmp_path / "ratings") as made:
        yield made


def ask(
    server: RatingServer, method: str = "GET", path: str = "", body: Any = None, **headers: str | None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    given: dict[str, str | None] = {"Host": f"127.0.0.1:{server.port}"}
    if raw is not None:
        given |= {
            "Origin": f"http://127.0.0.1:{server.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(raw)),
        }
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    target = path if path.startswith("/") else f"/{server.token}/{path}"
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(raw)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def post(server: RatingServer, grade: Any = 3, item: int = 0, rater: str = "anna", **headers: str | None) -> int:
    body = {"rater": rater, "id": SET.items[item].id, "grade": grade}
    return ask(server, "POST", "ratings", body, **headers)[0]


def test_it_serves_the_page_on_loopback_only(server: RatingServer) -> None:
    status, headers, body = ask(server)
    assert status == 200
    assert server.url.startswith("http://127.0.0.1:")
    assert server._server.server_address[0] == "127.0.0.1"
    assert b"secret" not in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/wrong/", "/wrong/ratings?rater=anna", "/ratings", "//", "/%2e%2e/key.json"])
def test_the_address_needs_the_token(server: RatingServer, path: str) -> None:
    assert ask(server, path=path)[0] == 404


@pytest.mark.parametrize("path", ["key.json", "../key.json", "ratings-anna.json", "page.js"])
def test_no_file_is_served(server: RatingServer, path: str) -> None:
    status, _, body = ask(server, path=path)
    assert status == 404
    assert b"secret" not in body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost", None, "127.0.0.1:1"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_host_is_refused(server: RatingServer, host: str | None, method: str, tmp_path: Path) -> None:
    given = None if host is None else host.format(port=server.port)
    body = None if method == "GET" else {"rater": "anna", "id": SET.items[0].id, "grade": 3}
    assert ask(server, method, "ratings" if body else "", body, Host=given)[0] == 403
    assert not (server.folder / "ratings-anna.json").exists()


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1", None]
)
def test_an_answer_of_another_origin_is_refused(server: RatingServer, origin: str | None) -> None:
    assert post(server, Origin=None if origin is None else origin.format(port=server.port)) == 403
    assert not (server.folder / "ratings-anna.json").exists()


def test_reading_from_another_origin_is_refused(server: RatingServer) -> None:
    assert ask(server, Origin="http://evil.example")[0] == 403
    assert ask(server, Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(server, Host=f"localhost:{server.port}")[0] == 200


def test_each_answer_is_written_at_once(server: RatingServer) -> None:
    file = server.folder / "ratings-anna.json"
    for item, grade in enumerate([0, 4, "skip"]):
        assert post(server, grade, item) == 200
        found = ratings.read(file, key=server.folder / "key.json")
        assert [r.grade for r in found][item] == (None if grade == "skip" else grade)
    assert post(server, None, 1) == 200
    assert post(server, 2, 0) == 200
    found = ratings.read(file, key=server.folder / "key.json")
    assert [(r.latent, r.grade) for r in found] == [(SET.key.items[2].latent, None), (SET.key.items[0].latent, 2)]
    assert all(r.time.endswith("Z") for r in found)


def test_every_rater_has_a_file(server: RatingServer) -> None:
    assert post(server, 1) == 200
    assert post(server, 3, rater="ben") == 200
    both = ratings.read(*sorted(server.folder.glob("ratings-*.json")), key=server.folder / "key.json")
    assert both.raters == ("anna", "ben")
    assert [row["grade"] for row in json.loads(ask(server, path="ratings?rater=ben")[2])["ratings"]] == [3]
    assert json.loads(ask(server, path="ratings?rater=new")[2]) == {"ratings": []}


@pytest.mark.parametrize("rater", ["", "../key", "Anna", "a/b", "x" * 41, "a b", 7, None, "a\0"])
def test_a_name_can_not_lead_to_another_file(server: RatingServer, rater: Any) -> None:
    body = {"rater": rater, "id": SET.items[0].id, "grade": 1}
    assert ask(server, "POST", "ratings", body)[0] == 400
    assert [file.name for file in server.folder.iterdir()] == ["key.json"]


@pytest.mark.parametrize("grade", [5, -1, 2.5, True, "3", [], {}])
def test_a_bad_grade_is_refused(server: RatingServer, grade: Any) -> None:
    assert post(server, grade) == 400
    assert not (server.folder / "ratings-anna.json").exists()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[" * 4000, {}, 400),
        (b"\xff", {}, 400),
        ([], {}, 400),
        ({"rater": "anna", "id": [], "grade": 1}, {}, 400),
        ({"rater": "anna", "id": "none", "grade": 1}, {}, 400),
        ({"rater": "anna", "id": "none"}, {}, 400),
        (b"x" * 5000, {}, 413),
        (b"{}", {"Content_Length": "-1"}, 411),
        (b"{}", {"Content_Length": None}, 411),
        (b"{}", {"Content_Type": "text/plain"}, 415),
    ],
)
def test_bad_requests_are_refused(server: RatingServer, body: Any, headers: dict[str, str | None], status: int) -> None:
    assert ask(server, "POST", "ratings", body, **headers)[0] == status
    assert ask(server)[0] == 200


def test_a_server_for_one_rater_accepts_no_other(tmp_path: Path) -> None:
    with RatingServer(SET, tmp_path, rater="anna") as server:
        assert post(server) == 200
        assert post(server, rater="ben") == 403
    with pytest.raises(ValueError, match="`rater` must have 1 to 40 lower-case letters"):
        RatingServer(SET, tmp_path, rater="../x")


def test_a_damaged_file_is_not_replaced(server: RatingServer) -> None:
    file = server.folder / "ratings-anna.json"
    file.write_text("{ half an ans")
    assert post(server) == 400
    assert file.read_text() == "{ half an ans"


def test_answers_of_another_set_or_rater_are_not_replaced(tmp_path: Path) -> None:
    AnswerFile(tmp_path, "anna", SET).answer(SET.items[0].id, 3)
    with pytest.raises(StorageError, match="belongs to the set"):
        AnswerFile(tmp_path, "anna", made_set(seed=1))
    (tmp_path / "ratings-anna.json").rename(tmp_path / "ratings-ben.json")
    with pytest.raises(StorageError, match="must hold the ratings of 'ben', got those of 'anna'"):
        AnswerFile(tmp_path, "ben", SET)


def test_the_key_of_another_set_stops_the_server(tmp_path: Path) -> None:
    made_set(seed=1).write_key(tmp_path)
    with pytest.raises(FileExistsError):
        RatingServer(SET, tmp_path)


def test_a_taken_port_is_an_error(server: RatingServer, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"[Aa]ddress"):
        RatingServer(SET, tmp_path / "other", port=server.port)
