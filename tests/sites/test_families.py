"""Replacing an MLP by its own neurons restores the logits, for every family."""

import pytest
import torch

from sparsedict.sites import Site

from . import _models


def assert_own_neurons_restore(site: Site, tolerance: float = 1e-4) -> None:
    tokens = _models.tokens()
    with torch.no_grad():
        expected = site.logits(tokens)
        with site.replaced(site.neurons):
            restored = site.logits(tokens)
        with site.ablated():
            ablated = site.logits(tokens)
    torch.testing.assert_close(restored, expected, atol=tolerance, rtol=0)
    assert (ablated - expected).abs().max() > 10 * tolerance
    neurons = site.neurons
    captured = site.capture(tokens, neurons=True)
    assert (site.d_in, site.d_out) == (neurons.d_in, neurons.d_out) == (_models.WIDTH, _models.WIDTH)
    assert captured.shape == tokens.shape
    torch.testing.assert_close(captured.neurons, neurons.encode(captured.inputs), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(captured.outputs, neurons.decode(captured.neurons), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", _models.FAMILIES)
def test_hugging_face(family: str) -> None:
    model = _models.hugging_face(family)
    place = _models.FAMILIES[family][-1]
    site = Site(model, place) if isinstance(place, str) else Site(model, reads=place[0], writes=place[1])
    assert_own_neurons_restore(site)


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "gpt_neox", "llama", "gemma2", "phi3", "bert", "opt"])
def test_transformer_bridge(family: str, compatible: bool, tmp_path) -> None:
    model = _models.bridge(family, tmp_path)
    if compatible:
        model.enable_compatibility_mode(disable_warnings=True)
    assert_own_neurons_restore(Site(model, "blocks.1.mlp"))
    assert_own_neurons_restore(Site(model, reads="blocks.1.mlp.hook_in", writes="blocks.1.mlp.out.hook_out"))
    outer = Site(model, reads="blocks.1.mlp.hook_in", writes="blocks.1.hook_mlp_out")
    if family == "gemma2":
        # Its hook_mlp_out lies after one more norm, which is no part of the MLP.
        with pytest.raises(ValueError, match="none of the"):
            _ = outer.neurons
    else:
        assert_own_neurons_restore(outer)
