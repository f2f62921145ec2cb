"""The places of the model and the data of a run don't depend on the current folder."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsedict.cli._data_name import DataName
from sparsedict.cli._finished_run import finished_run, tokenizer_of
from sparsedict.cli._run_file import absolute_options, run_options

from .conftest import Run

pytestmark = pytest.mark.usefixtures("no_rendering")
GIVEN = {"MODEL": "llama", "--data": "tokens.npy", "--held-out": "more/held-*.npy", "--vocabulary": "v.json"}


@pytest.fixture(scope="module")
def folders(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with models and data of the same names, and an empty folder."""
    root = tmp_path_factory.mktemp("places")
    for seed, name in enumerate(("own", "other")):
        (root / name / "more").mkdir(parents=True)
        shutil.copytree(model_folder, root / name / "llama")
        tokens = np.random.default_rng(seed).integers(3, 64, (80, 16)).astype(np.uint16)
        np.save(root / name / "tokens.npy", tokens)
        np.save(root / name / "more" / "held-out.npy", tokens[:40] - seed)
        (root / name / "v.json").write_text(json.dumps([f"{name}-{i}" for i in range(64)]))
    (root / "empty").mkdir()
    return root


def options(**changes: str) -> list[object]:
    given = {**GIVEN, **changes}
    small: list[object] = ["--n-tokens", 600, "--batch-size", 64, "--k", 4, "--n-latents", 24]
    small += ["--kind", "autoencoder", "--device", "cpu", "--quiet"]
    start = ["train", given.pop("MODEL"), "--site", "model.layers.1.mlp", *small]
    return [*start, *(part for pair in given.items() for part in pair)]


@pytest.fixture(scope="module")
def trained(folders: Path) -> Path:
    """A run of relative paths."""
    from rendering import empty_images
    from sparsedict.cli import main

    with pytest.MonkeyPatch.context() as patch, empty_images():
        patch.chdir(folders / "own")
        assert main([*map(str, options()), "--out", "run"]) == 0
    return folders / "own" / "run"


@pytest.fixture
def run(trained: Path, folders: Path, tmp_path: Path) -> Path:
    """A copy of the run that is beside neither model nor data."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def as_earlier_versions(run: Path, **changes: Any) -> Path:
    """Changes a run to the form of earlier versions, which stored paths as they were given."""
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    del document["working_directory"]
    document["options"] |= {**GIVEN, **changes}
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    return run


def test_stored_paths_are_absolute(trained: Path, folders: Path) -> None:
    found = json.loads((trained / "run.json").read_text(encoding="utf-8"))["options"]
    assert {name: found[name] for name in GIVEN} == {name: str(folders / "own" / text) for name, text in GIVEN.items()}


def test_names_on_the_hub_and_shares_are_stored_as_given(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders / "own" / "more")
    given = {"MODEL": "owner/name", "--data": "owner/name:en:train", "--held-out": "0.05", "--vocabulary": None}
    assert absolute_options(given) == given
    local = {"MODEL": "../llama", "--data": "../tokens.npy:en:test", "--held-out": "../more::test"}
    own = folders / "own"
    assert absolute_options(local) == {
        "MODEL": str(own / "llama"),
        "--data": f"{own / 'tokens.npy'}:en:test",
        "--held-out": f"{own / 'more'}::test",
    }


def test_a_colon_in_the_current_folder_divides_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:[b]" / "texts").mkdir(parents=True)
    (tmp_path / "a:[b]" / "texts" / "c.txt").write_text("abc")
    monkeypatch.chdir(tmp_path / "a:[b]")
    found = absolute_options({"--data": "texts::test", "--held-out": "texts/*.txt"})
    monkeypatch.chdir(tmp_path)
    assert absolute_options(found) == found
    data = DataName.parse(found["--data"], None, None, "--data")
    assert (data.path, data.split) == (tmp_path / "a:[b]" / "texts", "test")
    assert DataName.parse(found["--held-out"], None, None, "--data").files == [tmp_path / "a:[b]" / "texts" / "c.txt"]


@pytest.mark.parametrize("current", ["own", "other", "empty"])
def test_a_run_reads_its_own_data_from_any_folder(
    current: str, run: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders / current)
    loaded = finished_run(run, device="cpu", progress=False)
    assert torch.equal(loaded.held_out, torch.from_numpy(np.load(folders / "own/more/held-out.npy").astype(np.int64)))
    assert loaded.strings(torch.tensor([3])) == ["own-3"]


@pytest.mark.parametrize("current", ["own", "other", "empty"])
def test_resuming_compares_the_files_and_not_their_names(
    current: str, trained: Path, folders: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders / current)
    up = {name: f"../own/{text}" for name, text in GIVEN.items()}
    assert command(*options(**up), "--out", trained, "--resume")[0] == 0
    status, _, err = command(*options(), "--out", trained, "--resume")
    # The folder without data can't tell the names from those of gone files.
    assert status == (0 if current == "own" else 2)
    assert ("MODEL was" in err) is (current != "own")


def test_resuming_after_the_data_is_gone(
    run: Path, folders: Path, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders / "own" / "llama", tmp_path / "llama")
    as_new = json.loads((run / "run.json").read_text(encoding="utf-8"))
    as_new["options"] |= {name: str(tmp_path / text) for name, text in GIVEN.items()}
    (run / "run.json").write_text(json.dumps(as_new), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, out, err = command(*options(), "--out", run, "--resume")
    assert status == 0, err
    assert "already finished" in out
    status, _, err = command("pages", run, "--quiet")
    assert status == 2
    assert f"but its --data {str(tmp_path / 'tokens.npy')!r} doesn't exist. Move it back" in err


def test_runs_of_earlier_versions(
    run: Path, folders: Path, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_earlier_versions(run, MODEL="./llama")
    monkeypatch.chdir(folders / "own")
    assert run_options(run)["MODEL"] == str(folders / "own" / "llama")
    assert command(*options(), "--out", run, "--resume")[0] == 0
    monkeypatch.chdir(folders / "empty")
    for arguments in (["pages", run], ["trace", run, "text", "--out", "graph"]):
        status, _, err = command(*arguments, "--device", "cpu", "--quiet")
        assert status == 2
        assert "has the relative path MODEL './llama'" in err
        assert f"tried in {folders / 'empty'} and {tmp_path}" in err
    # Beside the run is the second place.
    for name in ("llama", "more"):
        shutil.copytree(folders / "own" / name, tmp_path / name)
    for name in ("tokens.npy", "v.json"):
        shutil.copy(folders / "own" / name, tmp_path / name)
    assert len(finished_run(run, device="cpu", progress=False).held_out) == 40
    beside = {name: str(tmp_path / text) for name, text in GIVEN.items()}
    status, _, err = command(*options(**beside), "--out", run, "--resume")
    assert status == 0, err
    monkeypatch.chdir(folders / "other")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert tokenizer_of(run) is None
    other = str(folders / "other" / "llama")
    used = f"the relative path MODEL './llama'. {other!r} is used, but {beside['MODEL']!r} exists too"
    assert used in str(caught[0].message)
    assert len(caught) == len(GIVEN)


def test_a_name_on_the_hub_is_not_that_of_a_folder(run: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads((run / "run.json").read_text(encoding="utf-8"))
    document["options"]["MODEL"] = "llama"
    (run / "run.json").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.chdir(folders / "other")
    with pytest.raises(ValueError, match="RUN has the MODEL 'llama' of the hub, but this folder has a file or folder"):
        finished_run(run, device="cpu", progress=False)


def test_an_unfinished_run_is_named(command: Run, run: Path) -> None:
    earlier = run / "replaced-result"
    earlier.mkdir()
    (run / "run.json").rename(earlier / "run.json")
    status, _, err = command("pages", run)
    assert status == 2
    assert f"has an unfinished run. The earlier result is in {str(earlier)!r}." in err
    (run / "checkpoints" / "step-000000005").mkdir(parents=True)
    for arguments in (["pages", run], ["rate", run], ["trace", run, "text", "--out", "graph"]):
        status, _, err = command(*arguments)
        assert status == 2
        assert "has an unfinished run. To finish it, repeat its command with --resume. The earlier result" in err


def test_a_broken_dictionary_is_not_that_of_out(command: Run, run: Path) -> None:
    (run / "autoencoder" / "dictionary.json").write_text("{}", encoding="utf-8")
    status, _, err = command("pages", run, "--device", "cpu", "--quiet")
    assert status == 2
    assert "--out" not in err
    assert str(run / "autoencoder") in err


def test_a_broken_tokenizer_is_reported(
    run: Path, folders: Path, command: Run, token_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "llama"
    shutil.copytree(folders / "own" / "llama", model)
    (model / "tokenizer.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    as_earlier_versions(run)
    site = ["--site", "model.layers.1.mlp", "--data", token_file, "--quiet"]
    for arguments in (["trace", run, "text", "--out", "graph"], ["diagnose", model, *site]):
        status, _, err = command(*arguments)
        assert status == 2
        assert "MODEL must have a tokenizer that transformers can load, but the tokenizer of" in err
        assert "(tokenizer.json) can't be loaded: " in err
