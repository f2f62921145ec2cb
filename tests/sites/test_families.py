"""Replacing an MLP by its own neurons restores the logits, for every family."""

from importlib.metadata import version

import pytest
import torch
from torch import nn

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
# Compatibility mode folds norms: LayerNorm in GPT-2 and OPT, RMSNorm in Llama and Gemma.
@pytest.mark.parametrize(
    ("family", "compatible"),
    [
        *((family, False) for family in ("gpt2", "gpt_neo", "gpt_neox", "llama", "phi3", "bert", "opt")),
        *((family, True) for family in ("gpt2", "llama", "gemma2", "opt")),
    ],
)
def test_transformer_bridge(family: str, compatible: bool, tmp_path) -> None:
    model = _models.bridge(family, tmp_path)
    if compatible:
        model.enable_compatibility_mode(disable_warnings=True)
    assert_own_neurons_restore(Site(model, "blocks.1.mlp"))
    # The MLP of these two is spread over its layer, so its own hook isn't called.
    reads = "blocks.1.mlp.in.hook_in" if family in ("bert", "opt") else "blocks.1.mlp.hook_in"
    assert_own_neurons_restore(Site(model, reads=reads, writes="blocks.1.mlp.out.hook_out"))
    outer = Site(model, reads=reads, writes="blocks.1.hook_mlp_out")
    if family == "gemma2":
        # Its hook_mlp_out lies after one more norm, which is no part of the MLP.
        with pytest.raises(ValueError, match="none of the"):
            _ = outer.neurons
    else:
        assert_own_neurons_restore(outer)


@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_norm_before_the_mlp_is_folded(family: str, compatible: bool, tmp_path) -> None:
    model = _models.bridge(family, tmp_path)
    if compatible:
        model.enable_compatibility_mode(disable_warnings=True)
    site = Site(model, reads="blocks.1.ln2.hook_normalized", writes="blocks.1.mlp.hook_out")
    if not compatible:
        with pytest.warns(UserWarning, match="folded into its encoder"):
            _ = site.neurons
    assert_own_neurons_restore(site)


@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated")
def test_hooked_transformer() -> None:
    lens = pytest.importorskip("transformer_lens")
    if int(version("transformer_lens").partition(".")[0]) >= 4:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    for extra in ({}, {"gated_mlp": True, "act_fn": "silu"}, {"normalization_type": "LNPre"}):
        arguments = {"act_fn": "gelu_new", "n_layers": 3, "n_heads": 2, "n_ctx": 32, "d_head": 8, **extra}
        config = lens.HookedTransformerConfig(
            d_model=_models.WIDTH, d_mlp=_models.HIDDEN, d_vocab=_models.VOCABULARY, seed=0, **arguments
        )
        model = lens.HookedTransformer(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        assert_own_neurons_restore(Site(model, "blocks.1.mlp"))
        reads = "blocks.1.ln2.hook_normalized"
        outer = Site(model, reads=reads, writes="blocks.1.hook_mlp_out")
        if "normalization_type" not in extra:
            with pytest.warns(UserWarning, match="folded into its encoder"):
                _ = outer.neurons
        assert_own_neurons_restore(outer)


class FusedGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(_models.WIDTH, 2 * _models.HIDDEN)
        self.out = nn.Linear(_models.HIDDEN, _models.WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * torch.sigmoid(gate))


class LlamaNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(_models.WIDTH, _models.HIDDEN, bias=False)
        self.w2 = nn.Linear(_models.HIDDEN, _models.WIDTH, bias=False)
        self.w3 = nn.Linear(_models.WIDTH, _models.HIDDEN, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Decreasing(nn.Module):
    """Registers its decoder first, and calls its activation by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(_models.HIDDEN, _models.WIDTH)
        self.drop = nn.Dropout(0.5)
        self.up = nn.Linear(_models.WIDTH, _models.HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.down(nn.functional.gelu(self.up(x), approximate="tanh")))


@pytest.mark.parametrize("mlp", [FusedGate, LlamaNames, Decreasing])
def test_unknown_modules_are_read_from_their_computation(mlp: type[nn.Module]) -> None:
    model = _models.Plain()
    model.mlp = mlp()
    model.train()
    assert_mode = [module.training for module in model.modules()]
    neurons = Site(model, "mlp").neurons
    assert neurons.n == _models.HIDDEN
    assert [module.training for module in model.modules()] == assert_mode
    assert_own_neurons_restore(Site(model.eval(), "mlp"))


def test_points_inside_a_residual_block() -> None:
    site = Site(_models.Plain(), reads="first.up:in", writes="first.down:out")
    assert_own_neurons_restore(site)


def test_neurons_follow_the_model() -> None:
    model = _models.Plain()
    site = Site(model, "mlp")
    before = site.neurons.encoder.clone()
    model.double()
    assert site.neurons.encoder.dtype == torch.float64
    torch.testing.assert_close(site.neurons.encoder.float(), before)
