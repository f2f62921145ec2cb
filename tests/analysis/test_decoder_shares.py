from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from sparsedict.analysis import decoder_shares


def crosscoder(rows: list[tuple[float, float]]) -> sd.Crosscoder:
    made = sd.Crosscoder({"a": 3, "b": 2}, len(rows), activation=sd.ReLU(), decoder_norm=sd.Free())
    with torch.no_grad():
        made.decoder.zero_()
        made.decoder[:, 1] = torch.tensor([row[0] for row in rows])
        made.decoder[:, 4] = torch.tensor([row[1] for row in rows])
    return made


ROWS = [(1.0, 1.0), (1.0, 0.05), (0.0, -2.0), (3.0, 1.0), (0.0, 0.0), (1.0, 0.3)]


def test_shares_are_relative_norms_at_each_point() -> None:
    found = decoder_shares(crosscoder(ROWS))
    wanted = torch.tensor([[0.5, 0.5], [1 / 1.05, 0.05 / 1.05], [0, 1], [0.75, 0.25], [0, 0], [1 / 1.3, 0.3 / 1.3]])
    torch.testing.assert_close(found.shares, wanted)
    assert {point: latents.tolist() for point, latents in found.exclusive.items()} == {
        "a.outputs": [1],
        "b.outputs": [2],
    }
    assert found.shared.tolist() == [0]
    assert found.is_counted.tolist() == [True, True, True, True, False, True]
    assert found.to_dict() == {
        "n_latents": 6,
        "n_counted": 5,
        "n_shared": 1,
        "n_exclusive a.outputs": 1,
        "n_exclusive b.outputs": 1,
    }
    assert "exclusive to a.outputs" in str(found)


def test_thresholds_and_dead_latents_are_the_callers() -> None:
    dead = torch.tensor([True, False, False, False, False, False])
    found = decoder_shares(crosscoder(ROWS), exclusive_above=0.7, shared_above=0.4, dead=dead)
    assert found.exclusive["a.outputs"].tolist() == [1, 3, 5]
    assert found.shared.tolist() == [3, 5]


def test_a_cross_layer_dictionary_has_shares_too() -> None:
    made = sd.CrossLayerDistiller(
        {"0": 4, "1": 4}, (2, 3), activation=sd.ReLU(), decoder_norm=sd.PerPoint(sd.UnitNorm())
    )
    found = decoder_shares(made)
    torch.testing.assert_close(found.shares, torch.tensor([[0.5, 0.5]] * 2 + [[0.0, 1.0]] * 3))


@pytest.mark.as_installed
def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="must write several points, as a Crosscoder does, got a SparseDistiller"):
        decoder_shares(sd.SparseDistiller(4, 4, 8, activation=sd.ReLU(), decoder_norm=sd.Free()))
    with pytest.raises(TypeError, match="`dictionary` must be a Dictionary such as"):
        decoder_shares(torch.zeros(3, 4))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`exclusive_above` must lie in \[0.5, 1.0\]"):
        decoder_shares(crosscoder(ROWS), exclusive_above=0.1)
