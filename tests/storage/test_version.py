"""Files of a newer version are recognised by one function, whatever they contain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sparsedict as sd
from sparsedict.storage import NewerVersionError, StorageError, format_version, read_checkpoint, write_checkpoint


def raise_version(file: Path) -> None:
    document = json.loads(file.read_text())
    document["format_version"] = 9
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("value", [None, 0, -1, True, "1", 1.0])
def test_a_version_is_a_positive_integer(value: object) -> None:
    with pytest.raises(StorageError, match=r"^file: `format_version` must be a positive integer, got"):
        format_version({"format_version": value}, 2, "file")
    assert [format_version({"format_version": version}, 2, "file") for version in (1, 2)] == [1, 2]


def test_a_newer_dictionary_checkpoint_and_store_raise_the_same_error(tmp_path: Path) -> None:
    message = (
        r"has format version 9, written by sparsedict [^;]{1,40}; this is sparsedict .*, which reads versions up to"
    )
    dictionary = sd.SparseAutoencoder(2, 3, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    dictionary.save(tmp_path / "dictionary")
    raise_version(tmp_path / "dictionary" / "dictionary.json")
    with pytest.raises(NewerVersionError, match=message):
        sd.load(tmp_path / "dictionary")
    write_checkpoint(tmp_path / "checkpoint", {}, {})
    raise_version(tmp_path / "checkpoint" / "checkpoint.json")
    with pytest.raises(NewerVersionError, match=message):
        read_checkpoint(tmp_path / "checkpoint")
    model = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Linear(2, 2))
    sd.ActivationStream(sd.Site(model, "1"), torch.zeros(2, 4, dtype=torch.int64), batch_size=4).save_to(
        tmp_path / "store", progress=False
    )
    raise_version(tmp_path / "store" / "activations.json")
    with pytest.raises(NewerVersionError, match=message):
        sd.ActivationStore(tmp_path / "store")
