"""Attention patterns and norms are held in any form, and a nonlinearity that isn't held is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsedict as sd
from circuits._models import all_sites, assert_complete, transcoders
from sites import _models

D, HEADS, N = _models.WIDTH, 2, 6
TOKENS = _models.tokens(1, N)


def split(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.zeros(q.shape[-2], k.shape[-2], dtype=q.dtype).masked_fill(~causal(q.shape[-2]), -torch.inf)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)


def sliding(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[-2]
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=causal(n) & causal(n).T.roll(2, 0).tril())


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k[:, :1], v[:, :1], is_causal=True, enable_gqa=True)


def scores(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).masked_fill(~causal(q.shape[-2]), -1e9)


def by_method(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scores(q, k).softmax(dim=-1) @ v


def by_function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(scores(q, k), dim=-1, dtype=torch.float64).to(v.dtype) @ v


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.softmax(5 * torch.tanh(scores(q, k) / 5), dim=-1) @ v


def flattened(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in Bloom: batch and heads are one dimension."""
    n_sequences, n_heads, n, d = q.shape
    pattern = nn.Softmax(dim=-1)(scores(q, k)).view(n_sequences * n_heads, n, n)
    return torch.bmm(pattern, v.reshape(n_sequences * n_heads, n, d)).view(n_sequences, n_heads, n, d)


def rotary(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Multiplies frequencies, which are weights, with positions, which are integers, in float32."""
    frequencies = torch.ones(1, 1, 1, dtype=q.dtype)
    angles = (frequencies.float() @ torch.arange(q.shape[-2]).float()[None, None]).transpose(1, 2)
    return fused(q * angles.cos(), k * angles.cos(), v)


ATTENTIONS = [rotary, fused, masked, sliding, grouped, by_method, by_function, capped, flattened]


def root(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def power(x: Tensor) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).pow(-0.5)


def operator(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5) ** 0.5


def quotient(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5)


def by_deviation(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)


def by_deviation_and_mean(x: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(x, -1, keepdim=True)
    return (x - mean) / deviation


def by_variance(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


def by_norm(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def normalised(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1) * 4


def layer_norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, (D,))


def lowercase_layer_norm(x: Tensor) -> Tensor:
    return torch.layer_norm(x, (D,))


def rms_norm(x: Tensor) -> Tensor:
    return functional.rms_norm(x, (D,), eps=1e-5)


NORMS = [
    root,
    power,
    operator,
    quotient,
    by_deviation,
    by_deviation_and_mean,
    by_variance,
    by_norm,
    normalised,
    layer_norm,
    lowercase_layer_norm,
    rms_norm,
]


class Layer(nn.Module):
    def __init__(self, norm: Callable[..., Any], attend: Callable[..., Any]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in "qkvo")
        self.mlp = nn.Sequential(nn.Linear(D, 40), nn.GELU(), nn.Linear(40, D))
        self._norm, self._attend = norm, attend

    def forward(self, x: Tensor) -> Tensor:
        z = self._norm(x)
        y = self._attend(split(self.q(z)), split(self.k(z)), split(self.v(z)))
        x = x + self.o(y.transpose(1, 2).flatten(-2))
        return x + self.mlp(self._norm(x))


class Model(nn.Module):
    def __init__(self, norm: Callable[..., Any] = root, attend: Callable[..., Any] = fused, n_layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(_models.VOCABULARY, D)
        self.layers = nn.ModuleList(Layer(norm, attend) for _ in range(n_layers))
        self.head = nn.Linear(D, _models.VOCABULARY)
        self._norm = norm

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self._norm(x))


def sites_of(model: nn.Module) -> sd.Sites:
    return sd.Sites(model, {str(i): f"layers.{i}.mlp" for i in range(2)})


@pytest.mark.parametrize("attend", ATTENTIONS, ids=lambda f: f.__name__)
def test_attention(attend: Callable[..., Any]) -> None:
    assert_graph_of(Model(attend=attend))


@pytest.mark.parametrize("norm", NORMS, ids=lambda f: f.__name__)
def test_norms(norm: Callable[..., Any]) -> None:
    assert_graph_of(Model(norm=norm))


def assert_graph_of(model: nn.Module) -> None:
    model = model.double()
    sites = sites_of(model)
    with torch.no_grad(), sd.circuits.frozen(sites, TOKENS) as held:
        logits = model(TOKENS)
    torch.testing.assert_close(logits, model(TOKENS))
    assert held.n_held > 0
    assert held.deviation < 1e-12
    graph = sd.circuits.attribute(sites, transcoders(sites, torch.float64), TOKENS, targets=[3])
    assert_complete(graph)
    assert graph.checked is not None
    assert graph.checked.frozen_error < 1e-9
    # Attention moves information: a token that isn't the last has an effect.
    effects = graph.edges[int(graph.targets[0]), graph.of_kind("token")]
    assert effects[:-1].count_nonzero() > 0


class EncoderModel(nn.Module):
    """Layers of PyTorch, which have a fast path in evaluation mode."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(_models.VOCABULARY, D)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(D, HEADS, 40, batch_first=True, norm_first=norm_first) for _ in range(2)
        )
        self.head = nn.Linear(D, _models.VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


@pytest.mark.parametrize("norm_first", [False, True])
def test_layers_of_pytorch(norm_first: bool) -> None:
    model = EncoderModel(norm_first).double()
    sites = sd.Sites(
        {str(i): sd.Site(model, reads=f"layers.{i}.linear1:in", writes=f"layers.{i}.linear2:out") for i in range(2)}
    )
    graph = sd.circuits.attribute(sites, transcoders(sites, torch.float64), TOKENS, targets=[3])
    assert_complete(graph)
    assert graph.deviation < 1e-12


def test_replacements_run_with_held_values() -> None:
    """Inside the context, other interventions change activations while attention is held."""
    model = Model().double()
    sites = sites_of(model)
    dictionaries = transcoders(sites, torch.float64)
    with torch.no_grad(), sites.replaced(dictionaries):
        unfrozen = model(TOKENS)
    with torch.no_grad(), sd.circuits.frozen(sites, TOKENS):
        same = model(TOKENS)
        with sites.replaced(dictionaries):
            frozen = model(TOKENS.repeat(3, 1))
    torch.testing.assert_close(same, model(TOKENS))
    torch.testing.assert_close(frozen[0], frozen[2])
    assert (frozen[:1] - unfrozen).abs().max() > 1e-3
    with sd.circuits.frozen(sites, TOKENS), pytest.raises(RuntimeError, match="same functions as the recorded pass"):
        nn.LayerNorm(D)(torch.zeros(1, 2, D))


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A kernel that calls none of the functions that are held."""
    with torch._C.DisableTorchFunction():
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = scores(q, k).exp()
    return weights / weights.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize("attend", [flash, by_hand])
def test_attention_that_is_not_held_is_named(attend: Callable[..., Any]) -> None:
    model = Model(attend=attend)
    sites = sites_of(model)
    for call in (
        lambda: sd.circuits.attribute(sites, transcoders(sites, torch.float32), TOKENS),
        lambda: sd.circuits.frozen(sites, TOKENS).__enter__(),
    ):
        with pytest.raises(sd.circuits.NotAffineError, match=r"in `layers.0` .*attn_implementation='eager'"):
            call()


def test_nonlinearities_are_named() -> None:
    model = Model()
    sites = sites_of(model)
    model.layers[1].o = nn.Sequential(nn.Linear(D, D), nn.SiLU())
    with pytest.raises(sd.circuits.NotAffineError, match=r"input of the site '1'.* in `layers\.1\.o\.1` \(SiLU\)"):
        sd.circuits.attribute(sites, transcoders(sites, torch.float32), TOKENS)
    model = Model()
    only = sd.Sites(model, {"0": "layers.0.mlp"})
    with pytest.raises(sd.circuits.NotAffineError, match=r"the logits.* in `layers\.1\.mlp\.1` \(GELU\)"):
        sd.circuits.attribute(only, transcoders(only, torch.float32), TOKENS)
    # A latent of the first layer is linear in the embeddings all the same.
    dictionaries = transcoders(only, torch.float32)
    latent = int(dictionaries["0"].encode_sparse(only.capture(TOKENS)["0.inputs"][0, -1:]).latents[0])
    graph = sd.circuits.attribute(only, dictionaries, TOKENS, targets=sd.circuits.Latent("0", latent))
    assert_complete(graph, 1e-5)
    assert graph.nodes[-1].latent == latent


def test_soft_cap() -> None:
    model = _models.hugging_face("gemma2").double()
    sites = all_sites("gemma2", model)
    tokens = _models.tokens(1)
    with pytest.raises(sd.circuits.NotAffineError, match=r"the logits.*before a soft cap"):
        sd.circuits.frozen(sites, tokens).__enter__()
    with sd.circuits.frozen(sites, tokens, before_cap=True) as held:
        pass
    assert held.deviation < 1e-12
    graph = sd.circuits.attribute(
        sites, transcoders(sites, torch.float64), tokens, targets=sd.circuits.Logit(3, centred=False)
    )
    assert graph.before_cap
    cap = model.config.final_logit_softcapping
    with torch.no_grad():
        capped_logit = model(tokens).logits[0, -1, 3]
    torch.testing.assert_close(cap * torch.tanh(graph.values[graph.targets] / cap), capped_logit[None])


class InPlace(nn.Module):
    """A model that changes activations in place, or computes the same without."""

    def __init__(self, kind: str | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(_models.VOCABULARY, D)
        self.position = nn.Parameter(torch.randn(D))
        self.layers = nn.ModuleList(Layer(self.norm, fused) for _ in range(2))
        self.head = nn.Linear(D, _models.VOCABULARY)
        self.kind = kind

    def norm(self, x: Tensor) -> Tensor:
        size = x.norm(dim=-1, keepdim=True)
        if self.kind == "norm":
            size += 0.5
            return x / size
        return x / (size + 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        if self.kind == "embedding":
            x += self.position
        else:
            x = x + self.position
        for layer in self.layers:
            given = x if self.kind == "input" else x.clone()
            y = layer.mlp(given)
            if self.kind == "output":
                y += x
                x = self.norm(y)
            elif self.kind == "input":
                x += y
                x = self.norm(x)
            else:
                x = self.norm(x + y)
        return self.head(x)


@pytest.mark.parametrize("kind", ["input", "output", "embedding", "norm"])
def test_changes_in_place(kind: str) -> None:
    """The graph of a model that changes activations in place is that of the same model without such changes."""
    graphs = []
    for own in (None, kind):
        sites = sites_of(InPlace(own).double())
        graph = sd.circuits.attribute(sites, transcoders(sites, torch.float64), TOKENS, targets=[3])
        assert_complete(graph)
        assert graph.checked is not None
        assert graph.checked.frozen_error < 1e-9
        graphs.append(graph)
    plain, changed = graphs
    assert plain.nodes == changed.nodes
    torch.testing.assert_close(changed.edges, plain.edges)
    torch.testing.assert_close(changed.constants, plain.constants)
    torch.testing.assert_close(changed.checked.unfrozen, plain.checked.unfrozen)


class WithoutBiases(nn.Module):
    """A model of two MLPs whose functions are linear along each ray from the origin."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(_models.VOCABULARY, D)
        self.mlp = nn.Sequential(nn.Linear(D, 40), nn.GELU(), nn.Linear(40, D))
        self.other = nn.Linear(D, D, bias=False)
        self.head = nn.Linear(D, _models.VOCABULARY, bias=False)
        self._function = function

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + self.mlp(x)
        return self.head(x + self._function(self.other(x)))


def signed_quotient(x: Tensor) -> Tensor:
    """Returns an odd function that is linear along each line through the origin."""
    return x * x.abs() / (x.abs().amax(-1, keepdim=True) + 1e-9)


@pytest.mark.parametrize("function", [torch.relu, torch.abs, signed_quotient], ids=lambda f: f.__name__)
def test_functions_that_are_linear_along_rays_are_not_affine(function: Callable[[Tensor], Tensor]) -> None:
    site = sd.Site(WithoutBiases(function), "mlp")
    with pytest.raises(sd.circuits.NotAffineError, match="the logits deviates"):
        sd.circuits.attribute(site, transcoders({"0": site}, torch.float32), TOKENS, targets=[3])


def test_probabilities_are_not_logits() -> None:
    site = sd.Site(nn.Sequential(WithoutBiases(torch.clone), nn.Softmax(-1)), "0.mlp")
    with pytest.raises(ValueError, match=r"must return logits .* instead of their softmax"):
        sd.circuits.attribute(site, transcoders({"0": site}, torch.float32), TOKENS, targets=[3])
