"""What `sd.load` says of paths that hold no dictionary: what lies there, or what may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest

import cases
import sparsedict as sd

pytestmark = pytest.mark.as_installed


def refusal(path: str | Path) -> str:
    with pytest.raises(FileNotFoundError) as caught:
        sd.load(path)
    return str(caught.value)


@pytest.mark.parametrize("path", ["owner/coders", "owner/coders@v1", "owner/coders/layer_3"])
def test_names_of_repositories_are_shown_as_an_address(path: str) -> None:
    assert f"{path} doesn't exist. A repository on the hub would be 'hf://{path}'." in refusal(path)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere", "../nowhere/at/all", "./nowhere"])
def test_other_names_are_not_shown_as_an_address(path: str) -> None:
    assert refusal(path).endswith("doesn't exist.")


def test_the_files_of_a_dictionary_lead_to_its_folder(tmp_path: Path) -> None:
    cases.make().save(tmp_path / "one")
    for name in ("dictionary.json", "dictionary.safetensors"):
        assert f"{name} is a file. Pass the folder {tmp_path / 'one'}." in refusal(tmp_path / "one" / name)


def test_a_folder_of_dictionaries_lists_them(tmp_path: Path) -> None:
    cases.make().save(tmp_path / "one")
    cases.make().save(tmp_path / "two")
    assert refusal(tmp_path).endswith("Its subfolders one, two contain dictionaries: load one of them.")


def test_a_run_is_distinguished_from_its_result(tmp_path: Path) -> None:
    coder = cases.make("autoencoder", "relu")
    sd.fit(coder, cases.tokens(64), n_tokens=128, batch_size=32, progress=False, checkpoint=tmp_path)
    assert "contains checkpoints of a run. Resume the run with `fit`" in refusal(tmp_path)
    assert "Resume the run with `fit` from the parent folder" in refusal(max(tmp_path.glob("step-*")))


def test_stored_activations_are_distinguished_from_a_dictionary(tmp_path: Path) -> None:
    (tmp_path / "activations.json").write_text("{}")
    assert refusal(tmp_path).endswith("Read them with `sd.ActivationStore`.")


def test_a_folder_and_a_file_in_no_known_format(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert refusal(tmp_path).endswith(
        "dictionary.json is missing, and it isn't a checkpoint in a known format of another library."
    )
    assert refusal(tmp_path / "notes.txt").endswith(
        "is a file, and it isn't a checkpoint in a known format of another library."
    )


@pytest.mark.parametrize("path", [None, 3, b"coders", [Path("coders")]])
def test_arguments_that_are_no_paths_raise(path: object) -> None:
    for load in (sd.load, sd.formats.sae_lens.read, sd.formats.circuit_tracer.read_set):
        with pytest.raises(TypeError, match=r"`path` must be a folder or file of a .*, as text or"):
            load(path)
