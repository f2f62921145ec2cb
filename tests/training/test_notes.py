"""The metadata that training writes to ``trained_on``."""

from __future__ import annotations

from pathlib import Path

import torch

import sparsedict as sd


def test_training_notes_model_site_data_tokens_and_version(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(20, 4), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    sites = {"one": sd.Site(model, "1"), "two": sd.Site(model, "2")}
    stream = sd.ActivationStream(sites, torch.randint(20, (16, 16)), batch_size=64)
    for data in (stream, stream.save_to(tmp_path / "store", progress=False)):
        made = {
            name: sd.SparseAutoencoder(d, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
            for name, d in (("one", 3), ("two", 2))
        }
        trainees = {name: sd.Trainee(coder, site=name) for name, coder in made.items()}
        sd.fit_many(trainees, data, n_tokens=256, progress=False)
        made["two"].save(tmp_path / "coder")
        noted = sd.load(tmp_path / "coder").trained_on
        assert noted["model"] == "Sequential"
        assert noted["site"] == "2"
        assert noted["n_tokens"] == 256
        assert noted["library_version"] == sd.__version__
        assert "seed 0" in noted["data"]
        assert made["one"].trained_on["site"] == "1"


def test_a_tensor_has_no_site(tmp_path: Path) -> None:
    coder = sd.SparseAutoencoder(4, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    sd.fit(coder, torch.randn(64, 4), n_tokens=64, batch_size=32, progress=False)
    assert not {"model", "site"} & coder.trained_on.keys()
    assert "64 tokens in memory" in coder.trained_on["data"]
