from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cases
import sparsedict as sd
from sparsedict import hub

from ._stand_in import Hub

pytestmark = pytest.mark.as_installed


@pytest.fixture
def coder() -> sd.Dictionary:
    made = cases.make("autoencoder", "top_k")
    made.trained_on = {"model": "owner/model", "site": "blocks.1.mlp", "n_tokens": 2_000_000, "lr": 5e-4}
    return made


class Figure:
    """Writes itself to a file, as matplotlib's does."""

    def savefig(self, path: Path) -> None:
        path.write_bytes(b"picture")


def test_a_pushed_dictionary_loads_again(served: Hub, coder: sd.Dictionary, tmp_path: Path) -> None:
    (tmp_path / "curve.svg").write_text("<svg/>")
    url = coder.push_to_hub(
        "owner/coders",
        metrics={"fvu": 0.25, "l0": 3.0, "n_tokens": 100_000, "kl": None},
        figures={"Training | curve": tmp_path / "curve.svg", "Similarity": Figure()},
        license="mit",
        private=True,
    )
    assert url.startswith(f"{served.url}/owner/coders/commit/")
    repository = served.repositories["owner/coders"]
    assert served.private == {"owner/coders"}
    assert len(repository.commits) == 2  # that of the new repository, and one for all of the files
    pushed = repository.commits[repository.refs["main"]]
    assert sorted(pushed) == [
        ".gitattributes",
        "README.md",
        "dictionary.json",
        "dictionary.safetensors",
        "figures/0.svg",
        "figures/1.png",
    ]
    assert torch.equal(sd.load("hf://owner/coders").encoder, coder.encoder)
    text = pushed["README.md"].decode()
    header, _, body = text.removeprefix("---\n").partition("---\n")
    assert 'license: "mit"\nbase_model: "owner/model"\n' in header
    assert "- sparse-autoencoder" in header
    assert 'sd.load("hf://owner/coders")' in body
    for row in (
        "| activation | TopK(k=3) |",
        "| site | blocks.1.mlp |",
        "| n\\_tokens | 2,000,000 |",
        "| fvu | 0.25 |",
        "| n\\_tokens | 100,000 |",
        "![Training \\| curve](figures/0.svg)",
        "![Similarity](figures/1.png)",
    ):
        assert row in body
    assert "kl" not in body


def test_one_repository_holds_several(served: Hub, coder: sd.Dictionary, tmp_path: Path) -> None:
    coder.push_to_hub("hf://owner/coders/layers/1")
    cases.make("distiller").push_to_hub("owner/coders/layers/2")
    repository = served.repositories["owner/coders"]
    pushed = repository.commits[repository.refs["main"]]
    assert {"README.md", "layers/1/README.md", "layers/2/README.md"} <= pushed.keys()
    assert pushed["README.md"] == pushed["layers/1/README.md"]
    assert isinstance(sd.load("hf://owner/coders/layers/1"), sd.SparseAutoencoder)
    assert isinstance(sd.load("hf://owner/coders/layers/2"), sd.SparseDistiller)


def test_the_numbers_of_an_evaluation_are_taken(served: Hub, coder: sd.Dictionary) -> None:
    class Numbers:
        def to_dict(self) -> dict[str, float]:
            return {"loss_recovered_zero": 0.987}

    coder.push_to_hub("owner/coders", metrics=Numbers())
    repository = served.repositories["owner/coders"]
    assert b"| loss\\_recovered\\_zero | 0.987 |" in repository.commits[repository.refs["main"]]["README.md"]


def test_a_folder_of_any_files_is_pushed(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "cfg.json").write_text("{}")
    (tmp_path / ".hidden").write_text("secret")
    hub.push(tmp_path, "owner/others/here")
    repository = served.repositories["owner/others"]
    assert set(repository.commits[repository.refs["main"]]) == {".gitattributes", "here/inner/cfg.json"}
    with pytest.raises(FileNotFoundError, match="must be a folder with files to upload"):
        hub.push(tmp_path / "nothing", "owner/others")


def test_failed_pushes_are_named(served: Hub, coder: sd.Dictionary) -> None:
    with pytest.raises(PermissionError, match=r"Pushing to hf://forbidden/x isn't permitted \(HTTP 403\). Log in"):
        coder.push_to_hub("forbidden/x")
    served.stop()
    with pytest.raises(ConnectionError, match="Pushing to hf://owner/coders needs the hub, which can't be reached"):
        coder.push_to_hub("owner/coders")


def test_nothing_is_uploaded_where_an_argument_is_wrong(served: Hub, coder: sd.Dictionary, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="An address on the hub must have the form"):
        coder.push_to_hub("coders")
    with pytest.raises(TypeError, match=r"`figures\['x'\]` must be a file or a matplotlib figure, got int"):
        coder.push_to_hub("owner/coders", figures={"x": 3})  # type: ignore[dict-item]
    with pytest.raises(FileNotFoundError):
        coder.push_to_hub("owner/coders", figures={"x": tmp_path / "nothing.png"})
    assert not served.requests


def test_values_do_not_break_out_of_the_card(coder: sd.Dictionary, tmp_path: Path) -> None:
    coder.trained_on = {
        "model": "a/b\n---\nlicense: x",
        "data": "<script>alert(1)</script> | `x` \n# title",
        "n": [1, 2],
    }
    text = hub.card(coder._description(), "owner/coders", license='mit"\nx: y')
    header = text.split("---\n")[1]
    assert json.loads(header.splitlines()[1].removeprefix("license: ")) == 'mit"\nx: y'
    assert "base_model" not in header
    assert "<script>" not in text
    assert "\n# title" not in text
    assert "| data | &lt;script&gt;alert(1)&lt;/script&gt; \\| \\`x\\` # title |" in text
    assert "| n | 1, 2 |" in text
