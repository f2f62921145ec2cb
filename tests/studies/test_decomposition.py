from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import sparsedict as sd
from sparsedict.studies import Decomposition, recipes
from sparsedict.studies._study_result import COLUMNS, WIDTH

from .conftest import run


@pytest.fixture(scope="session")
def folder(taken: Decomposition, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "run"
    files = taken.write(path)
    assert all(file.exists() for file in files.values())
    return path


def test_table_is_aligned_and_has_every_column(taken: Decomposition) -> None:
    lines = taken.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert re.split(r"\s{2,}", lines[0].strip()) == list(COLUMNS)
    assert [line.split()[0] for line in lines[1:]] == ["distiller", "autoencoder"]
    assert all(len(line) <= WIDTH for line in str(taken).splitlines()[4:])


def test_json_and_table_agree(taken: Decomposition, folder: Path) -> None:
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for name, result in taken.results.items():
        numbers, cells = found["results"][name], result.cells()
        assert f"{numbers['fvu']:.4f}" == cells["FVU"]
        assert f"{numbers['l0']:.1f}" == cells["L0"]
        for ablation in ("zero", "mean"):
            share = numbers[f"loss_recovered_{ablation}"]
            assert ("-" if share is None else f"{share:.1%}") == cells[f"recovered ({ablation})"]
        assert cells["never fired"].startswith(f"{numbers['n_dead']:,} ")
        assert cells["simulators"].startswith(f"{numbers['n_simulators']:,} ")
        assert numbers["n_dead"] == numbers["latents"]["firing_counts"].count(0)
        of_each = zip(numbers["latents"]["decoder_cosine"], numbers["latents"]["firing_counts"], strict=True)
        assert sum(cosine > 0.8 and count > 0 for cosine, count in of_each) == numbers["n_simulators"]
    assert found["settings"]["recipe"]["batch_size"] == 64
    assert str(taken) == (folder / "table.txt").read_text(encoding="utf-8").rstrip("\n")


def test_dictionaries_load_again(taken: Decomposition, folder: Path) -> None:
    for name, result in taken.results.items():
        assert torch.equal(sd.load(folder / name).encoder, result.dictionary.encoder)


def test_pages_hold_table_figures_and_latents(taken: Decomposition, folder: Path) -> None:
    index = (folder / "index.html").read_text(encoding="utf-8")
    assert taken.table().splitlines()[1] in index
    figures = sorted(file.stem for file in (folder / "figures").glob("*.svg"))
    assert figures == [
        "autoencoder-decoder-similarity",
        "autoencoder-firing-frequency",
        "distiller-decoder-similarity",
        "distiller-encoder-similarity",
        "distiller-firing-frequency",
        "training",
    ]
    assert index.count("<img") == len(figures)
    assert all((folder / address).exists() for address in re.findall(r'href="([^"#]+)"', index))
    manifest = (folder / "latents" / "data" / "manifest.js").read_text(encoding="utf-8")
    assert all(f'"name":"{name}"' in manifest for name in (*taken.results, "neurons"))


def test_writing_again_replaces_its_own_files_and_no_others(
    taken: Decomposition, site: sd.Site, tokens: torch.Tensor, tmp_path: Path
) -> None:
    taken.write(tmp_path / "run")
    (tmp_path / "run" / "notes.md").write_text("mine")
    again = run(site, tokens, recipes=recipes(sd.TopK(4), kinds=["autoencoder"]))
    with pytest.raises(FileExistsError, match="contains an earlier result"):
        again.write(tmp_path / "run")
    assert (tmp_path / "run" / "distiller" / "dictionary.json").exists()
    again.write(tmp_path / "run", force=True)
    assert (tmp_path / "run" / "notes.md").read_text() == "mine"
    assert not (tmp_path / "run" / "distiller" / "dictionary.json").exists()
    assert not list((tmp_path / "run" / "figures").glob("distiller*"))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_unmeasured_numbers_are_null(taken: Decomposition, tmp_path: Path) -> None:
    broken = Decomposition(taken.results, taken.settings, {"training": float("nan")})
    broken.write(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["seconds"] == {"training": None}
