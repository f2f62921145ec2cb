"""New pages replace earlier pages, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import sparsedict as sd
from sparsedict.pages._latents import check_folder
from sparsedict.pages.graphs import check_graph_folder
from sparsedict.storage import replace_folder


def _latents(path: Path) -> None:
    site = sd.Site(sd.zoo.load_model(), "transformer.h.0.mlp")
    sae = sd.SparseAutoencoder(site.d_out, 4, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    sd.pages.write(path, site, {"sae": sae}, sd.zoo.tokens("train", n_tokens=256), progress=False)


def _graph(path: Path) -> None:
    model = sd.zoo.load_model()
    sites = sd.circuits.find_sites(model)
    neurons = {name: site.neurons for name, site in sites.items()}
    graph = sd.circuits.attribute(sites, neurons, [1, 2, 3], max_latents=4, check=0, progress=False)
    sd.pages.write_graph(path, graph, force=True)


@pytest.mark.parametrize("write", [_latents, _graph])
def test_pages_are_replaced_unless_there_are_other_files(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "pages"
    write(path)
    (path / "index.html").write_text("earlier")
    (path / ".DS_Store").write_text("of a file manager")
    write(path)
    assert (path / "index.html").read_text() != "earlier"
    assert [item.name for item in tmp_path.iterdir()] == ["pages"]

    (path / "notes.txt").write_text("mine")
    before = sorted(path.rglob("*"))
    with pytest.raises(FileExistsError, match=r"`path` must be .* and nothing else, but .* contains 'notes\.txt'"):
        write(path)
    assert sorted(path.rglob("*")) == before
    assert (path / "notes.txt").read_text() == "mine"


CHECKS: dict[str, Callable[[Path], object]] = {
    "latents": check_folder,
    "graph": lambda folder: check_graph_folder(folder, force=False),
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_folder_that_cannot_be_created_is_an_error_before_the_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"`path` must be a folder that can be created, but .*file isn't"):
        CHECKS[name](tmp_path / "file" / "a" / "pages")
    # A superuser may write everywhere.
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)
    for folder in (tmp_path / "pages", tmp_path / "a" / "b"):
        with pytest.raises(PermissionError, match=r"`path` must be in a writable folder, but .* isn't writable\."):
            CHECKS[name](folder)


def test_an_error_keeps_the_earlier_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    replace_folder(path, lambda target: (target / "a").touch())

    def fail(target: Path) -> None:
        (target / "b").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_folder(path, fail)
    assert [item.name for item in path.iterdir()] == ["a"]
    replace_folder(path, lambda target: (target / "c").touch())
    assert [item.name for item in path.iterdir()] == ["c"]
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]
