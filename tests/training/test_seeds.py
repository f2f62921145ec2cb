"""The effect of seeds: the dictionary's generator on its weights, and `seed` on the order of the data."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparsedict as sd
from sparsedict.data import SyntheticFeatures
from sparsedict.dictionaries._start_tokens import start_tokens

D, N_LATENTS = 8, 24
BATCH = SyntheticFeatures(D, 40, 3.0, seed=0).sample(512, 1)[0]


class Own(sd.Dictionary):
    """A kind of one's own, whose encoder is affine."""

    reads = writes = "outputs"

    def __init__(self, n_latents: int, **kwargs: Any) -> None:
        super().__init__(D, D, n_latents, **kwargs)

    def encoder_inputs(self, x: Tensor) -> Tensor:
        return 2.0 * x

    def pre_activations(self, x: Tensor) -> Tensor:
        return self.encoder_inputs(x) @ self.encoder.T + self.encoder_bias

    def decode(self, latents: Any) -> Tensor:
        return sd.kernels.matmul(latents, self.decoder) + self.decoder_bias


KINDS: dict[str, Callable[..., sd.Dictionary]] = {
    "autoencoder": lambda **kwargs: sd.SparseAutoencoder(D, N_LATENTS, **kwargs),
    "distiller": lambda **kwargs: sd.SparseDistiller(D, D, N_LATENTS, **kwargs),
    "own": lambda **kwargs: Own(N_LATENTS, **kwargs),
}


def made(kind: str, seed: int, *, by_generator: bool) -> sd.Dictionary:
    generator = torch.Generator().manual_seed(seed) if by_generator else None
    torch.manual_seed(seed)
    return KINDS[kind](activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), generator=generator)


def trained(dictionary: sd.Dictionary, **kwargs: Any) -> dict[str, Tensor]:
    sd.fit(dictionary, BATCH, n_tokens=1024, batch_size=128, progress=False, **kwargs)
    return dictionary.state_dict()


def nearest(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T).max(1).values


@pytest.mark.parametrize("by_generator", [False, True], ids=["manual_seed", "generator"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_the_weights_and_the_start(kind: str, by_generator: bool) -> None:
    first, same, other = (trained(made(kind, seed, by_generator=by_generator)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in ("encoder", "decoder", "encoder_bias"))


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_start_at_other_tokens(kind: str) -> None:
    """Not at the same ones in another order."""
    first, other = (made(kind, seed, by_generator=True) for seed in (0, 1))
    for dictionary in (first, other):
        sd.fit(dictionary, BATCH, n_tokens=128, batch_size=128, lr=1e-12, progress=False)
    same = nearest(first.decoder.detach(), other.decoder.detach()) > 1 - 1e-4
    # Of 128 tokens 24 are drawn twice: 4.5 are expected to be the same.
    assert int(same.sum()) < 12


def test_the_generator_alone_counts_where_there_is_one() -> None:
    first = trained(made("autoencoder", 3, by_generator=True))
    torch.manual_seed(99)
    generator = torch.Generator().manual_seed(3)
    second = trained(KINDS["autoencoder"](activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), generator=generator))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_seed_of_the_data_decides_its_order() -> None:
    first, same, other = (trained(made("autoencoder", 0, by_generator=True), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first["decoder"], same["decoder"])
    assert not torch.equal(first["decoder"], other["decoder"])


def test_training_leaves_the_global_generator_alone() -> None:
    dictionary = made("autoencoder", 0, by_generator=False)
    before = torch.get_rng_state()
    trained(dictionary)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_starts_as_the_original(kind: str, tmp_path: Path) -> None:
    dictionary = made(kind, 5, by_generator=False)
    torch.save(dictionary, tmp_path / "pickled")
    pickled = torch.load(tmp_path / "pickled", weights_only=False) if kind != "own" else copy.copy(dictionary)
    copies = [copy.deepcopy(dictionary), copy.deepcopy(pickled)]
    wanted = trained(dictionary)
    for other in copies:
        assert torch.equal(trained(other)["decoder"], wanted["decoder"])


def test_a_loaded_dictionary_continues_with_equal_results(tmp_path: Path) -> None:
    dictionary = made("autoencoder", 5, by_generator=False)
    trained(dictionary)
    dictionary.save(tmp_path / "coder")
    loaded = sd.load(tmp_path / "coder")
    assert torch.equal(trained(loaded)["decoder"], trained(dictionary)["decoder"])


def test_tokens_are_drawn_without_replacement_from_those_that_differ() -> None:
    rows = torch.arange(10.0)[:, None].repeat(3, 2)
    tokens, shared = start_tokens(7, 12, rows)
    assert len({float(rows[token, 0]) for token in tokens[:10]}) == 10
    assert shared.tolist() == [False] * 10 + [True] * 2
    tokens, shared = start_tokens(7, 4, torch.ones(5, 2))
    assert shared.tolist() == [False, True, True, True]


def test_no_two_latents_start_alike_where_tokens_repeat() -> None:
    """Twins receive the same gradients for ever."""
    few = BATCH.outputs[:10].repeat(20, 1)
    dictionary = KINDS["autoencoder"](activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    dictionary.initialise_(few, few)
    cosines = dictionary.decoder.detach() @ dictionary.decoder.detach().T
    assert float(cosines.fill_diagonal_(0).max()) < 1 - 1e-4
