from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from sparsedict.analysis import match_dictionaries

from ._models import Foreign, autoencoder, distiller, noise


def test_nearest_latents_are_those_of_the_whole_table() -> None:
    a, b = distiller(20), distiller(30, seed=1)
    table = cosine_similarity(a.decoder.detach()[:, None], b.decoder.detach()[None], dim=-1)
    match = match_dictionaries(a, b)
    assert torch.allclose(match.cosine_a, table.amax(1), atol=1e-6)
    assert torch.equal(match.latent_of_a, table.argmax(1))
    assert torch.allclose(match.cosine_b, table.amax(0), atol=1e-6)
    assert torch.equal(match.latent_of_b, table.argmax(0))
    assert match.mutual.tolist() == [table.argmax(0)[table.argmax(1)[i]] == i for i in range(20)]
    assert (len(match.null_a), len(match.null_b)) == (20, 30)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(20)))
def test_dictionary_and_its_permutation_match_latent_by_latent(order: list[int]) -> None:
    rows = noise(20, 32)
    match = match_dictionaries(rows, rows[order] * 2)
    assert match.mutual.all()
    assert torch.equal(torch.tensor(order)[match.latent_of_a], torch.arange(20))
    assert torch.allclose(match.cosine_a, torch.ones(20), atol=1e-6)
    assert match.null_a.max() < 0.9


def test_turning_the_pair_around_turns_the_match_around() -> None:
    a, b = autoencoder(15), autoencoder(25, seed=1)
    there, back = match_dictionaries(a, b), match_dictionaries(b, a)
    assert torch.equal(there.latent_of_a, back.latent_of_b)
    assert torch.equal(there.cosine_b, back.cosine_a)
    assert {tuple(pair) for pair in there.pairs.tolist()} == {tuple(pair[::-1]) for pair in back.pairs.tolist()}


def test_other_libraries_objects_serve() -> None:
    a, b = distiller(20), distiller(30, seed=1)
    assert torch.equal(match_dictionaries(Foreign(a), b).latent_of_a, match_dictionaries(a, b).latent_of_a)


def test_other_widths_raise() -> None:
    with pytest.raises(ValueError, match="activations of the same width, got 6 and 7"):
        match_dictionaries(autoencoder(), noise(4, 7))
