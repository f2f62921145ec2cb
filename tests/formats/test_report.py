"""The report's state dicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

import sparsedict as sd
from sparsedict.formats import report
from sparsedict.storage import StorageError


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    shapes = {"W_enc": (6, 12), "W_dec": (12, 6), "b_enc": (12,), "b_dec": (6,), "b_pre": (6,)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("activation", "function"), [(None, functional.relu), (sd.GELU(), functional.gelu)])
def test_the_forward_pass_is_the_report_s(
    activation: sd.Activation | None, function: object, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "student.pt")
    dictionary = report.read(tmp_path / "student.pt", activation=activation)
    x = torch.randn(7, 6)
    latents = function((x + state["b_pre"]) @ state["W_enc"] + state["b_enc"])
    torch.testing.assert_close(dictionary(x).latents, latents)
    torch.testing.assert_close(dictionary(x).reconstruction, latents @ state["W_dec"] + state["b_dec"])


def test_load_recognises_it(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "student.pt")
    dictionary = sd.load(tmp_path / "student.pt")
    assert isinstance(dictionary, sd.SparseDistiller)
    assert dictionary.trained_on == {"library": "report"}
    assert dictionary.decoder_norm == sd.MaxNorm(1.0)


def test_a_folder_or_another_state_dict_raises(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be the \.pt file"):
        report.read(tmp_path)
    torch.save({name: value for name, value in state.items() if name != "b_pre"}, tmp_path / "other.pt")
    with pytest.raises(StorageError, match="must contain `b_pre`"):
        report.read(tmp_path / "other.pt")
