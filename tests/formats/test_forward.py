"""The forward pass of a dictionary that was read equals that of the other library."""

from __future__ import annotations

import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest
import torch

import sparsedict as sd
from formats._fixtures import ALL, FIXTURES, assert_equals_the_library, location
from sparsedict.formats import _location


def formats() -> dict[str, object]:
    names = [found.name for found in pkgutil.iter_modules(sd.formats.__path__) if not found.name.startswith("_")]
    return {name: importlib.import_module(f"sparsedict.formats.{name}") for name in names}


def only_file(folder: Path) -> Path:
    [file] = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".npz", ".pt")]
    return file


SINGLE = [(library, case) for library, case in ALL if case != "two_layers"]
every_single_checkpoint = pytest.mark.parametrize(("library", "case"), SINGLE, ids=list(map("/".join, SINGLE)))


@every_single_checkpoint
def test_the_forward_pass_is_the_library_s_own(library: str, case: str) -> None:
    dictionary = getattr(sd.formats, library).read(location(library, case), dtype=torch.float32)
    assert_equals_the_library(dictionary, library, case)
    assert not dictionary.training


@every_single_checkpoint
def test_load_recognises_folder_and_file(library: str, case: str) -> None:
    for path in (location(library, case), only_file(location(library, case))):
        dictionary = sd.load(path, dtype=torch.float32)
        assert_equals_the_library(dictionary, library, case)


@every_single_checkpoint
def test_one_format_recognises_it(library: str, case: str) -> None:
    for path in (location(library, case), only_file(location(library, case))):
        found = _location.Location.from_path(path)
        assert [name for name, module in formats().items() if module.recognises(found)] == [library]


@every_single_checkpoint
def test_it_is_a_dictionary_like_any_other(library: str, case: str, tmp_path: Path) -> None:
    dictionary = sd.load(location(library, case))
    dictionary.save(tmp_path / "ours")
    again = sd.load(tmp_path / "ours")
    assert again.trained_on == dictionary.trained_on
    assert repr(again) == repr(dictionary)
    for name, weight in dictionary.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    assert_equals_the_library(again, library, case)


@every_single_checkpoint
def test_it_can_be_trained_on(library: str, case: str) -> None:
    dictionary = sd.load(location(library, case), dtype=torch.float32)
    x = torch.randn(64, dictionary.d_in)
    data = (x, torch.randn(64, dictionary.d_out)) if isinstance(dictionary, sd.SparseDistiller) else x
    before = dictionary.decoder.clone()
    sd.fit(dictionary, data, n_tokens=128, batch_size=32, lr=1e-2, progress=False)
    assert not torch.equal(dictionary.decoder, before)
    assert all(weight.isfinite().all() for weight in dictionary.parameters())


def test_every_module_of_the_room_is_a_format_and_exported() -> None:
    for name, module in formats().items():
        assert getattr(sd.formats, name) is module
        assert name in sd.formats.__all__
        assert callable(module.read)
        assert callable(module.recognises)


def test_our_own_folders_are_no_format(tmp_path: Path) -> None:
    sd.SparseDistiller(3, 3, 4, activation=sd.ReLU(), decoder_norm=sd.UnitNorm()).save(tmp_path)
    assert sd.formats.detect_format(tmp_path) is None
    assert sd.formats.detect_format(tmp_path / "missing") is None
    assert sd.formats.detect_format(FIXTURES / "sae_lens" / "topk") is sd.formats.sae_lens


@pytest.mark.as_installed
def test_rows_of_another_library_s_files_are_not_chosen() -> None:
    with pytest.raises(ValueError, match=r"`latents` must be left out for a checkpoint of another library"):
        sd.load(location("sae_lens", "topk"), latents=[1, 2])


@pytest.mark.parametrize("library", ["dictionary_learning", "gemma_scope", "sae_lens", "sparsify"])
def test_a_folder_of_several_lists_them(library: str, tmp_path: Path) -> None:
    for case in ("a", "b/c"):
        shutil.copytree(location(library, next(c for one, c in ALL if one == library)), tmp_path / "all" / case)
    with pytest.raises(
        FileNotFoundError, match=r"2 \w+: 'a', 'b/c'\. Pass the folder of one of them, such as .*all/a\."
    ):
        sd.load(tmp_path / "all")


def test_an_unknown_folder_gives_the_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("wandb: 1")
    (tmp_path / "weights.bin").write_bytes(b"1")
    with pytest.raises(FileNotFoundError, match=r"dictionary\.json"):
        sd.load(tmp_path)
