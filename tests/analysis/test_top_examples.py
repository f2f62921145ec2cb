from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsedict as sd
from sparsedict import adapters
from sparsedict.analysis import top_examples
from sparsedict.sites import Site

from ._models import Foreign, LanguageModel, autoencoder, distiller, tokens


@torch.no_grad()
def brute_force(site: Site, dictionary: sd.Dictionary, ids: torch.Tensor, n: int) -> list[list[tuple]]:
    seen = site.capture(ids)
    x = seen.inputs if dictionary.reads == "inputs" else seen.outputs
    latents = dictionary.encode(x) * seen.mask[..., None]
    places = latents.abs().max(1).indices
    values = latents.gather(1, places[:, None]).squeeze(1)
    examples = []
    for latent in range(dictionary.n_latents):
        peaks = [
            (-abs(v), i, at, v)
            for i, (v, at) in enumerate(zip(values[:, latent].tolist(), places[:, latent].tolist(), strict=True))
        ]
        examples.append([(i, at, value) for _, i, at, value in sorted(peaks)[:n] if value])
    return examples


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 14), batch_size=st.sampled_from([1, 4, 100]), seed=st.integers(0, 50))
def test_examples_are_those_of_all_latents_at_once(n: int, batch_size: int, seed: int) -> None:
    site = Site(LanguageModel(), "mlp", exclude_tokens=[0], exclude_first=1)
    # With repeated sequences there are ties.
    ids = tokens(12, 9, seed=seed)[torch.arange(12) // 2 * 2]
    ids[:, 3] = 0
    for dictionary in (distiller(seed=seed), autoencoder(seed=seed)):
        found = top_examples(site, dictionary, ids, n_examples=n, context=2, batch_size=batch_size)
        assert list(found) == list(range(20))
        every_sequence = brute_force(site, dictionary, ids, len(ids))
        for top, expected in zip(found.values(), brute_force(site, dictionary, ids, n), strict=True):
            assert [e.max for e in top.examples] == pytest.approx([value for *_, value in expected], rel=1e-5)
            # Equal sequences may differ in the last bit from batch to batch, so any order of a tie is right.
            best = {i: (at, value) for i, at, value in every_sequence[top.latent]}
            assert len({e.sequence for e in top.examples}) == len(top.examples)
            for example in top.examples:
                position, value = best[example.sequence]
                assert example.max == pytest.approx(value, rel=1e-5)
                assert example.position == position


def test_negative_latents_are_ranked_by_magnitude_and_keep_their_sign(site: Site) -> None:
    student = distiller(activation=sd.AbsTopK(3))
    found = top_examples(site, student, tokens(), n_examples=3, batch_size=100)
    expected = brute_force(site, student, tokens(), 3)
    assert [[(e.sequence, e.position) for e in top.examples] for top in found.values()] == [
        [(i, at) for i, at, _ in peaks] for peaks in expected
    ]
    values = [e.max for top in found.values() for e in top.examples]
    assert values == pytest.approx([value for peaks in expected for *_, value in peaks], rel=1e-5)
    assert min(values) < 0 < max(values)


@torch.no_grad()
def test_windows_show_the_available_tokens(site: Site) -> None:
    ids, student = tokens(), distiller()
    seen = site.capture(ids)
    activations = student.encode(seen.inputs) * seen.mask[..., None]
    for latent, top in top_examples(site, student, ids, context=(2, 3), batch_size=5).items():
        for e in top.examples:
            first, last = max(e.position - 2, 0), min(e.position + 4, 9)
            assert e.tokens.tolist() == ids[e.sequence, first:last].tolist()
            assert torch.allclose(e.activations, activations[e.sequence, first:last, latent], atol=1e-6)
            assert e.position == first + e.peak
            assert e.max == e.activations.max()


def test_chosen_latents_come_in_their_order(site: Site) -> None:
    everything = top_examples(site, distiller(), tokens())
    mask = torch.zeros(20, dtype=torch.bool)
    mask[[2, 7]] = True
    for latents, expected in (([7, 2], [7, 2]), (torch.tensor([3]), [3]), (mask, [2, 7])):
        found = top_examples(site, distiller(), tokens(), latents=latents)
        assert list(found) == expected
        for latent in expected:
            pairs = zip(found[latent].examples, everything[latent].examples, strict=True)
            assert all(a.sequence == b.sequence and torch.equal(a.activations, b.activations) for a, b in pairs)


def test_dead_latents_have_no_examples(site: Site) -> None:
    student = distiller()
    with torch.no_grad():
        student.encoder_bias[3] = -100
    top = top_examples(site, student, tokens(), latents=[3])[3]
    assert len(top) == 0
    assert top.n_tokens == 12 * 8


def test_all_dead_is_no_error(site: Site) -> None:
    student = distiller()
    with torch.no_grad():
        student.encoder_bias.fill_(-100)
    assert all(len(top) == 0 for top in top_examples(site, student, tokens()).values())


def test_blocks_and_batches_of_other_lengths(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = top_examples(site, distiller(), tokens(), n_examples=3)
    monkeypatch.setattr(adapters, "N_DENSE", 7 * 20)
    found = top_examples(site, distiller(), tokens(), n_examples=3)
    for latent in expected:
        pairs = zip(found[latent].examples, expected[latent].examples, strict=True)
        assert all((a.sequence, a.position) == (b.sequence, b.position) for a, b in pairs)
    ragged = [tokens()[:6, :5], tokens()[6:]]
    assert top_examples(site, distiller(), ragged)[0].n_tokens == 6 * 4 + 6 * 8


def test_padding_is_not_shown() -> None:
    site = Site(LanguageModel(), "mlp")
    ids, mask = tokens(), torch.ones(12, 9, dtype=torch.int64)
    padded = {
        "input_ids": torch.nn.functional.pad(ids, (3, 0)),
        "attention_mask": torch.nn.functional.pad(mask, (3, 0)),
    }
    found, expected = (top_examples(site, distiller(), text, context=20) for text in (padded, ids))
    for latent in expected:
        for a, b in zip(found[latent].examples, expected[latent].examples, strict=True):
            assert a.tokens.tolist() == b.tokens.tolist()
            assert a.peak == b.peak == b.position == a.position - 3


def test_latents_without_bound_on_entries_serve(site: Site) -> None:
    student = distiller(activation=sd.GELU())
    expected = brute_force(site, student, tokens(), 4)[5]
    found = top_examples(site, student, tokens(), latents=[5], n_examples=4)[5]
    assert [(e.sequence, e.position) for e in found.examples] == [(i, at) for i, at, _ in expected]


def test_other_libraries_objects_serve(site: Site) -> None:
    found = top_examples(site, Foreign(distiller()), tokens(), reads="inputs")
    expected = top_examples(site, distiller(), tokens())
    assert {k: [e.sequence for e in v.examples] for k, v in found.items()} == {
        k: [e.sequence for e in v.examples] for k, v in expected.items()
    }


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": [20]}, r"`latents` must lie in \[0, 20\), got 20"),
        ({"latents": [1, 1]}, "`latents` must name each latent once"),
        ({"latents": []}, "`latents` must be indices or a mask"),
        ({"n_examples": 0}, "`n_examples` must be at least 1"),
        ({"context": -1}, "`context` must be at least 0"),
    ],
)
def test_bad_arguments_raise(site: Site, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_examples(site, distiller(), tokens(), **options)


def test_activations_have_no_tokens_to_show() -> None:
    site = Site(torch.nn.Sequential(torch.nn.Linear(6, 6)), "0")
    with pytest.raises(ValueError, match="`tokens` must be token ids"):
        top_examples(site, distiller(), torch.randn(4, 6))
