"""`Adapter`: which points an object reads and writes, and how it encodes and reconstructs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.adapters import Adapter, resolve_points
from sparsedict.batches import Activations
from sparsedict.latents import SparseLatents


class Halves:
    """Another library's object: positive and negative parts."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], -1).relu()

    def decode(self, latents: Tensor) -> Tensor:
        assert isinstance(latents, Tensor)
        positive, negative = latents.chunk(2, -1)
        return positive - negative


class SparseHalves(Halves):
    """Encodes sparsely, but decodes dense latents only."""

    def encode_sparse(self, x: Tensor) -> SparseLatents:
        return SparseLatents.from_dense(self.encode(x))


class Named(Halves):
    reads: Any = ("0.inputs", "1.inputs")
    writes: Any = None


def transcoder() -> sd.SparseDistiller:
    return sd.SparseDistiller(3, 4, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm(), skip=True)


@pytest.mark.parametrize(
    ("reads", "writes"),
    [
        ("inputs", "outputs"),
        ("outputs", "outputs"),
        ("neurons", "neurons"),
        ("a.inputs", "a.outputs"),
        (("0.inputs", "0.neurons"), ("0.outputs", "0.neurons")),
        (("0.inputs", "0.outputs"), ("0.outputs",)),
    ],
)
def test_an_object_without_names_writes_the_outputs_of_the_site_it_reads(reads: Any, writes: Any) -> None:
    assert Adapter(Halves(), reads).points == (reads, writes)
    assert Adapter(Adapter(Halves(), reads)).points == (reads, writes)
    assert Adapter(Adapter(Halves()), reads).points == (reads, writes)


def test_own_names_come_first_and_contradictions_raise() -> None:
    assert Adapter(transcoder()).points == ("inputs", "outputs")
    assert Adapter(Named()).points == (("0.inputs", "1.inputs"), ("0.outputs", "1.outputs"))
    with pytest.raises(ValueError, match="`reads` must be 'inputs' for this SparseDistiller, got 'outputs'"):
        Adapter(transcoder(), "outputs")
    with pytest.raises(ValueError, match="`reads` must be 'inputs' for this Halves, got 'outputs'"):
        Adapter(Adapter(Halves(), "inputs"), "outputs")
    with pytest.raises(ValueError, match="`writes` must be 'outputs' for this SparseDistiller"):
        Adapter(transcoder(), None, "neurons")


@pytest.mark.as_installed
@pytest.mark.parametrize("reads", ["output", "", (), ("inputs", 3), 3, "0.residual"])
def test_names_that_are_no_points_raise(reads: Any) -> None:
    with pytest.raises(ValueError, match="`reads` must be 'inputs', 'outputs' or 'neurons'"):
        Adapter(Halves(), reads)


def test_unknown_points_raise_where_they_are_needed() -> None:
    adapter = Adapter(Halves())
    with pytest.raises(ValueError, match="`reads` must name the point that a Halves reads"):
        _ = adapter.points
    assert resolve_points(Halves()) == (None, None)


def test_foreign_attributes_that_are_no_points_are_ignored() -> None:
    class Odd(Halves):
        reads = 17
        writes = "disk"

    assert Adapter(Odd(), "inputs").points == ("inputs", "outputs")


def test_objects_that_cannot_encode_or_decode_raise() -> None:
    with pytest.raises(TypeError, match=r"`x` must be a dictionary, .*got Linear, which has no `encode`"):
        Adapter(nn.Linear(2, 2), argument="x")

    class Encoder:
        def encode(self, x: Tensor) -> Tensor:
            return x

    adapter = Adapter(Encoder(), "inputs")
    with pytest.raises(TypeError, match="got Encoder, which has no `decode`"):
        adapter.require("decode")


def test_latents_are_sparse_only_where_they_can_be_reconstructed() -> None:
    x = torch.randn(5, 3)
    assert isinstance(Adapter(transcoder()).encode_sparse(x), SparseLatents)
    for source in (Halves(), SparseHalves()):
        adapter = Adapter(source, "outputs")
        latents = adapter.encode_sparse(x)
        torch.testing.assert_close(adapter.reconstruct(latents, x), x)


def test_reconstruction_includes_a_skip() -> None:
    dictionary, x = transcoder(), torch.randn(5, 3)
    assert dictionary.skip is not None
    nn.init.normal_(dictionary.skip)
    adapter = Adapter(dictionary)
    expected = dictionary(x).reconstruction
    torch.testing.assert_close(adapter.reconstruct(adapter.encode_sparse(x), x), expected)
    torch.testing.assert_close(adapter.reconstruct(adapter.encode(x), x), expected)


def test_activations_take_the_type_of_the_weights() -> None:
    class Module(nn.Module, Halves):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(2, 2, dtype=torch.float64)

    class Buffers(nn.Module, Halves):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(1, dtype=torch.int64))
            self.register_buffer("scale", torch.ones(1, dtype=torch.float64))

    x = torch.randn(5, 2)
    for source in (transcoder().double(), Module(), Buffers()):
        assert Adapter(source).fit(x).dtype == torch.float64
    assert Adapter(Halves()).fit(x) is x


def test_rows_of_a_batch() -> None:
    batch = Activations({f"{site}.{role}": torch.randn(4, 3) for site in "01" for role in ("inputs", "outputs")})
    adapter = Adapter(Named())
    assert torch.equal(adapter.inputs(batch), torch.cat([batch["0.inputs"], batch["1.inputs"]], -1))
    assert torch.equal(adapter.targets(batch), torch.cat([batch["0.outputs"], batch["1.outputs"]], -1))
    assert adapter.uses("inputs")
    assert not adapter.uses("neurons")


def test_analysis_accepts_an_adapter() -> None:
    x = torch.randn(50, 3)
    expected = sd.analysis.firing_frequencies(Halves(), x, reads="outputs")
    assert torch.equal(sd.analysis.firing_frequencies(Adapter(Halves(), "outputs"), x).counts, expected.counts)
    dictionary = transcoder()
    neurons = torch.eye(4)
    found = sd.analysis.match_neurons(Adapter(dictionary), neurons)
    assert torch.equal(found.decoder_neuron, sd.analysis.match_neurons(dictionary, neurons).decoder_neuron)


def test_a_dictionary_that_names_its_points_is_analysed_on_several_sites() -> None:
    batch = Activations({f"{site}.{role}": torch.randn(40, 3) for site in "01" for role in ("inputs", "outputs")})
    found = sd.analysis.firing_frequencies(Named(), [batch])
    assert torch.equal(found.counts, (Named().encode(Adapter(Named()).inputs(batch)) != 0).sum(0))
    with pytest.raises(ValueError, match="`data` must be of one site, got '0', '1'"):
        sd.analysis.firing_frequencies(transcoder(), [batch])
