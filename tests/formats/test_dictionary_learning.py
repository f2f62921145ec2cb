"""dictionary_learning: classes from the configuration, the tensors or an argument."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import sparsedict as sd
from formats._fixtures import assert_equals_the_library, cases, copied, location, read_tensors, write_tensors
from sparsedict.formats import dictionary_learning
from sparsedict.storage import StorageError

TOLD_BY_TENSORS = ("auto_encoder", "auto_encoder_new", "gated", "jump_relu", "matryoshka")


@pytest.mark.parametrize("case", TOLD_BY_TENSORS)
def test_the_names_of_tensors_decide_the_class(case: str, tmp_path: Path) -> None:
    shutil.copy(location("dictionary_learning", case) / "ae.pt", tmp_path / "trained.pt")
    assert_equals_the_library(dictionary_learning.read(tmp_path / "trained.pt"), "dictionary_learning", case)
    # Two linear layers may be anybody's, with any activation.
    if case != "auto_encoder_new":
        assert_equals_the_library(sd.load(tmp_path / "trained.pt"), "dictionary_learning", case)


@pytest.mark.parametrize(("case", "name"), [("k_largest", "AutoEncoderTopK"), ("k_on_average", "BatchTopKSAE")])
def test_two_classes_have_the_same_tensors(case: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(location("dictionary_learning", case) / "ae.pt", folder)
    if "top" not in str(tmp_path):
        with pytest.raises(StorageError, match=r"AutoEncoderTopK or a BatchTopKSAE.*dict_class='BatchTopKSAE'"):
            sd.load(folder)
    read = dictionary_learning.read(folder, dict_class=name)
    assert_equals_the_library(read, "dictionary_learning", case)
    said = tmp_path / {"AutoEncoderTopK": "top_k_resid", "BatchTopKSAE": "BatchTopK_resid"}[name]
    folder.rename(said)
    assert_equals_the_library(sd.load(said), "dictionary_learning", case)


def test_the_configuration_of_training_checkpoints_lies_above_them(tmp_path: Path) -> None:
    folder = copied("dictionary_learning", "k_largest", tmp_path)
    (folder / "checkpoints").mkdir()
    shutil.copy(folder / "ae.pt", folder / "checkpoints" / "ae_1000.pt")
    read = sd.load(folder / "checkpoints" / "ae_1000.pt")
    assert_equals_the_library(read, "dictionary_learning", "k_largest")


def test_a_threshold_that_was_never_measured_is_reported(tmp_path: Path) -> None:
    folder = copied("dictionary_learning", "k_on_average", tmp_path)
    tensors = read_tensors(folder / "ae.pt")
    write_tensors(folder / "ae.pt", tensors | {"threshold": torch.tensor(-1.0)})
    with pytest.warns(UserWarning, match="has no measured threshold"):
        dictionary = sd.load(folder)
    x = torch.randn(5, 6)
    torch.testing.assert_close(dictionary.encode(x), dictionary.pre_activations(x).relu())
    sd.fit(dictionary, torch.randn(64, 6), n_tokens=64, batch_size=64, lr=1e-5, progress=False)
    assert dictionary.activation_state.get_buffer("threshold") > 0


def test_the_metadata_of_the_configuration_is_preserved() -> None:
    dictionary = sd.load(location("dictionary_learning", "matryoshka"))
    assert dictionary.trained_on["group_sizes"] == [4, 8]
    assert dictionary.trained_on["class"] == "MatryoshkaBatchTopKSAE"
    assert dictionary.trained_on["model"] == "tiny-stories"
    assert sd.load(location("dictionary_learning", "k_on_average")).activation == sd.BatchTopK(3, momentum=0.9)


def test_the_class_in_the_configuration_must_fit_the_tensors(tmp_path: Path) -> None:
    folder = copied("dictionary_learning", "gated", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for name, message in (("AutoEncoder", "must contain `encoder.bias`"), ("Transformer", "the class must be one of")):
        config["trainer"]["dict_class"] = name
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(StorageError, match=message):
            sd.load(folder)


@pytest.mark.parametrize("case", cases("dictionary_learning"))
def test_single_tensors_may_be_of_other_float_types(case: str, tmp_path: Path) -> None:
    folder = copied("dictionary_learning", case, tmp_path)
    tensors = read_tensors(folder / "ae.pt")
    halved = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_tensors(folder / "ae.pt", halved)
    dictionary = sd.load(folder)
    has_threshold = isinstance(dictionary.activation, sd.JumpReLU | sd.BatchTopK)
    assert dictionary.encoder.dtype == (torch.float32 if has_threshold else torch.bfloat16)
    assert torch.equal(
        dictionary.encoder_bias.bfloat16(), halved.get("encoder.bias", halved.get("b_enc", torch.zeros(12)))
    )
