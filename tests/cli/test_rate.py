"""`sparsedict rate` shows the latents of a finished run, and its results."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rendering import empty_images
from sparsedict.analysis import ratings
from sparsedict.pages import read_records
from sparsedict.pages.rating import AnswerFile, RatingSet

from .conftest import Run

SMALL = ("--n-per-kind", "4", "--n-tokens", "2k", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, token_file: Path) -> Path:
    """A finished run of two sites."""
    from sparsedict.cli import main

    folder = tmp_path_factory.mktemp("run") / "run"
    words = token_file.with_name("vocabulary.json")
    words.write_text(json.dumps([f"w{i}" for i in range(64)]))
    options = ["--site", "model.layers.*.mlp", "--data", token_file, "--vocabulary", words, "--context", 16]
    small = ["--n-tokens", "2k", "--n-latents", 24, "--k", 4, "--device", "cpu", "--held-out", "0.5", "--quiet"]
    with empty_images():
        assert main([str(part) for part in ("train", model_folder, *options, *small, "--out", folder)]) == 0
    return folder


def test_the_page_has_latents_of_all_dictionaries_without_names(command: Run, finished: Path, tmp_path: Path) -> None:
    answers = tmp_path / "ratings"
    page = tmp_path / "rate.html"
    status, out, err = command("rate", finished, "--out", page, "--ratings", answers, *SMALL)
    assert status == 0, err
    assert "It shows" in out
    made = RatingSet.read(answers)
    assert {item.dictionary.partition("/")[2] for item in made.key.items} == {"distiller", "autoencoder", "neurons"}
    assert {item.dictionary.partition("/")[0] for item in made.key.items} == {
        "model.layers.0.mlp",
        "model.layers.1.mlp",
    }
    text = page.read_text()
    assert not re.search(r"distiller|autoencoder|neurons|model\.layers", text)
    assert '"w1' in text


def test_the_same_command_continues_without_the_model(command: Run, finished: Path, tmp_path: Path) -> None:
    options = ("rate", finished, "--out", tmp_path / "a.html", "--ratings", tmp_path / "r", *SMALL)
    assert command(*options)[0] == 0
    first = (tmp_path / "a.html").read_text()
    assert command(*options)[0] == 0
    assert (tmp_path / "a.html").read_text() == first
    status, _, err = command(*options, "--seed", "1")
    assert status == 2
    assert "has latents that were selected with --seed 0. Pass the same, or --ratings FOLDER." in err


def test_results_are_shown_by_kind_with_the_agreement_of_raters(command: Run, finished: Path, tmp_path: Path) -> None:
    answers = tmp_path / "r"
    status, _, err = command("rate", finished, "--results", "--ratings", answers)
    assert status == 2
    assert "--ratings must be a folder with ratings" in err
    command("rate", finished, "--out", tmp_path / "a.html", "--ratings", answers, *SMALL)
    made = RatingSet.read(answers)
    for rater, shift in (("anna", 0), ("ben", 1)):
        file = AnswerFile(answers, rater, made)
        for place, item in enumerate(made.items):
            file.answer(item.id, "skip" if place == 2 else min(4, place % 5 + shift))
    status, out, err = command("rate", finished, "--results", "--ratings", answers)
    assert status == 0, err
    found = ratings.read(*answers.glob("ratings-*.json"), key=answers / "key.json")
    for name, row in ratings.table(found).rows.items():
        assert re.search(rf"{re.escape(name)} +{row.mean.value:.3f}", out)
    assert "agreement of anna and ben" in out
    assert "kappa, quadratic weights" in out


def test_the_server_answers_and_ends_with_ctrl_c(finished: Path, tmp_path: Path) -> None:
    arguments = ["rate", finished, "--ratings", tmp_path / "r", "--rater", "anna", *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsedict", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = urlsplit(re.search(r"http://\S+", line)[0])  # type: ignore[index]
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        connection.request("GET", address.path)
        assert b"<h1>Rating of latents</h1>" in connection.getresponse().read()
        identifier = RatingSet.read(tmp_path / "r").items[0].id
        body = json.dumps({"rater": "anna", "id": identifier, "grade": 2})
        headers = {"Origin": f"http://{address.netloc}", "Content-Type": "application/json"}
        connection.request("POST", f"{address.path}ratings", body, headers)
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Stopped. Run `sparsedict rate" in rest
    assert len(ratings.read(tmp_path / "r" / "ratings-anna.json", key=tmp_path / "r" / "key.json")) == 1


@pytest.mark.parametrize("content", [None, "{", '{"options": {"command": "other"}}', "[]"])
def test_a_folder_without_a_finished_run_is_an_error(command: Run, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    status, _, err = command("rate", tmp_path)
    assert status == 2
    assert "run.json" in err
    assert [item.name for item in tmp_path.iterdir()] == ["run.json"] * (content is not None)


@pytest.mark.parametrize("mode", [(), ("--out", "page.html"), ("--results",)])
def test_a_bad_name_is_an_error_before_latents_are_selected(
    command: Run, finished: Path, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    status, _, err = command("rate", finished, "--ratings", tmp_path / "r", "--rater", "../Anna", *mode, *SMALL)
    assert status == 2
    assert "--rater must have 1 to 40 lower-case letters" in err
    assert not (tmp_path / "r").exists()


def test_the_page_has_the_name_of_the_rater(command: Run, finished: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "a.html", "--ratings", tmp_path / "r", "--rater", "anna", *SMALL)
    assert command("rate", finished, *options)[0] == 0
    assert '"rater": "anna"' in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--results", "--rater", "anna"), "--rater must be omitted with --results, got 'anna'"),
        (("--results", "--port", "8000"), "--port must be omitted with --results, which starts no server, got 8000"),
        (("--out", "a.html", "--port", "8000"), "--port must be omitted with --out, which starts no server, got 8000"),
    ],
)
def test_options_without_effect_are_errors(
    command: Run, finished: Path, options: tuple[str, ...], message: str
) -> None:
    status, _, err = command("rate", finished, *options)
    assert status == 2
    assert message in err


def test_the_examples_are_those_of_the_pages_of_the_run(command: Run, finished: Path, tmp_path: Path) -> None:
    small = list(SMALL)
    if "--n-tokens" in small:
        at = small.index("--n-tokens")
        del small[at : at + 2]
    status, _, err = command("rate", finished, "--out", tmp_path / "a.html", "--ratings", tmp_path / "r", *small)
    assert status == 0, err
    made = RatingSet.read(tmp_path / "r")
    item = next(item for item in made.key.items if item.dictionary.endswith("/autoencoder"))
    site = item.dictionary.partition("/")[0]
    records = read_records(finished / site / "latents")["autoencoder"]
    assert item.maximum == pytest.approx(max(abs(e.max) for e in records.examples(item.latent)))


def test_pages_without_records_are_no_source_of_examples(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a folder of pages with records"):
        read_records(tmp_path)
