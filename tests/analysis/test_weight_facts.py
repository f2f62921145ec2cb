from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict import zoo
from sparsedict.analysis import neighbours, token_effects
from sparsedict.sites.models import NoUnembeddingError, unembedding


def hugging_face(name: str, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=50, **sizes, **options)
    head = "ForMaskedLM" if name == "Bert" else "ForCausalLM"
    model = getattr(transformers, f"{name}{head}")(config).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "norm" in path.lower():
                parameter.uniform_(0.5, 2.0)
    return model


@pytest.mark.parametrize(
    ("name", "options", "centres"),
    [("Llama", {}, False), ("Gemma2", {"num_key_value_heads": 2, "head_dim": 8}, False), ("GPTNeoX", {}, True)],
)
def test_the_scale_of_the_final_norm_is_measured(name: str, options: dict, centres: bool) -> None:
    model = hugging_face(name, **options)
    found = unembedding(model)
    assert found.centres is centres
    assert found.norm is not None
    norm = model.get_submodule(found.norm)
    x, direction = torch.randn(2, 1, 1, 16).unbind()
    step = 1e-3

    def logits(residual: torch.Tensor) -> torch.Tensor:
        rms = (residual - residual.mean() * centres).square().mean().sqrt()
        # With a fixed divisor, the norm is affine.
        return norm(residual) * rms @ found.weight.T

    with torch.no_grad():
        change = ((logits(x + step * direction) - logits(x - step * direction)) / (2 * step)).flatten()
        bias = getattr(norm, "bias", None)
        if bias is not None:
            # The divisor also multiplies the bias, which isn't a part of the effect.
            plus, minus = ((x + s * step * direction) for s in (1, -1))
            rms = [(part - part.mean()).square().mean().sqrt() for part in (plus, minus)]
            change -= (bias @ found.weight.T) * (rms[0] - rms[1]) / (2 * step)
    expected = change - change.mean()
    assert torch.allclose(found.logits(direction.flatten()[None])[0], expected, atol=5e-3)


def test_no_unembedding_is_said() -> None:
    with pytest.raises(NoUnembeddingError, match="reads neither"):
        unembedding(hugging_face("Bert"))
    with pytest.raises(NoUnembeddingError, match="has no unembedding"):
        unembedding(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)))


def test_effects_are_those_of_adding_the_row_before_the_norm() -> None:
    model = zoo.load_model()
    site = sd.Site(model, "transformer.h.3.mlp")
    found = token_effects(site, site.neurons, k=5)
    row = site.neurons.decoder[7].double()
    norm = model.transformer.ln_f
    with torch.no_grad():
        effect = ((row - row.mean()) * norm.weight.double()) @ model.lm_head.weight.double().T
        effect -= effect.mean()
    assert found.promoted[7].tolist() == effect.topk(5).indices.tolist()
    assert found.suppressed[7].tolist() == effect.topk(5, largest=False).indices.tolist()
    assert torch.allclose(found.promoted_logits[7].double(), effect.topk(5).values, atol=1e-4)


def test_effects_of_several_layers_and_of_neuron_space() -> None:
    model = zoo.load_model()
    sites = sd.Sites(model, {name: f"transformer.h.{name}.mlp" for name in "23"})
    options: dict[str, Any] = {"activation": sd.TopK(2), "decoder_norm": sd.UnitNorm()}
    cross = sd.CrossLayerDistiller(sites, 8, **options)
    rows = cross.decoder.detach()
    single = sd.SparseDistiller(128, 128, len(rows), **options)
    single.decoder.data = rows[:, :128] + rows[:, 128:]
    assert torch.equal(token_effects(sites, cross).promoted, token_effects(sites["3"], single).promoted)
    inside = sd.SparseAutoencoder(512, 8, reads="neurons", **options)
    with torch.no_grad():
        inside.decoder.zero_()[:, :8] = torch.eye(8)
    of_neurons = token_effects(sites["3"], sites["3"].neurons).promoted[:8]
    assert torch.equal(token_effects(sites["3"], inside).promoted, of_neurons)


@pytest.mark.parametrize("n", [1, 3, 40])
def test_neighbours_are_those_of_all_cosines(n: int) -> None:
    a, b = torch.randn(2, 30, 6).unbind()
    cosines = nn.functional.normalize(a, dim=1) @ nn.functional.normalize(b, dim=1).T
    found = neighbours(a, b, k=n)
    assert torch.equal(found.latents, cosines.argsort(dim=1, descending=True)[:, :n])
    own = neighbours(a, k=n)
    assert own.latents.shape == (30, min(n, 29))
    assert (own.latents != torch.arange(30)[:, None]).all()
    assert (own.cosine.diff(dim=1) <= 0).all()
