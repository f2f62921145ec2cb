from __future__ import annotations

import jaxtyping
import pytest
import torch

import cases
import sparsedict as sd
from sparsedict.types import EncoderDecoder


def test_a_batch_gives_the_activations_of_each_role() -> None:
    inputs, outputs, neurons = torch.zeros(4, 2), torch.zeros(4, 3), torch.zeros(4, 8)
    batch = sd.ActivationBatch(inputs, outputs, neurons)
    assert len(batch) == 4
    assert batch.of("inputs") is inputs
    assert batch.of("outputs") is outputs
    assert batch.of("neurons") is neurons


def test_neurons_that_were_not_captured_are_missed_by_name() -> None:
    with pytest.raises(ValueError, match="holds no neuron activations: capture them with `neurons=True`"):
        sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(4, 3)).of("neurons")


@pytest.mark.as_installed
def test_a_batch_of_unequal_lengths_or_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="`outputs` must hold as many tokens as `inputs`, got 3 and 4"):
        sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`neurons` must hold as many tokens as `inputs`, got 1 and 4"):
        sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="`role` must be 'inputs', 'outputs' or 'neurons', got 'output'"):
        sd.ActivationBatch(torch.zeros(4, 2), torch.zeros(4, 2)).of("output")


def test_kept_positions_become_rows_in_reading_order() -> None:
    inputs = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[False, True, True], [False, True, False]])
    captured = sd.SiteActivations(inputs, inputs + 100, None, mask, torch.Size((2, 3)))
    batch = captured.batch()
    assert batch.inputs.tolist() == [[2, 3], [4, 5], [8, 9]]
    assert torch.equal(batch.outputs, batch.inputs + 100)
    assert batch.neurons is None
    with_neurons = sd.SiteActivations(inputs, inputs, inputs[..., :1], mask, torch.Size((2, 3))).batch()
    assert with_neurons.of("neurons").tolist() == [[2], [4], [8]]


def test_shapes_of_a_carrier_are_enforced_in_tests() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        sd.SiteActivations(
            torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), None, torch.ones(3, 2, dtype=torch.bool), torch.Size((2, 3))
        )


@pytest.mark.parametrize("kind", cases.KINDS)
def test_dictionaries_encode_and_decode(kind: str) -> None:
    assert isinstance(cases.make(kind), EncoderDecoder)
