"""One case for every variant of every noun: a new variant adds its entry here, and the contract suites run it.

Beside each variant stands what it should compute, written densely and for plain autograd, by other means than the
library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

import sparsedict as sd

D_IN, D_OUT, N_LATENTS = 6, 5, 12
K = 3
THRESHOLD, BANDWIDTH = 0.4, 0.5

State = Mapping[str, Tensor]


# ---------------------------------------------------------------------------------------------------------------------
# Activations


@dataclass(frozen=True)
class ActivationCase:
    """An activation and its dense reference, ``(pre, state, training) -> latents``."""

    activation: sd.Activation
    reference: Callable[[Tensor, State, bool], Tensor]


def _keep(pre: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, pre.relu(), torch.zeros_like(pre))


def _top_k(k: int) -> Callable[[Tensor, State, bool], Tensor]:
    def reference(pre: Tensor, state: State, training: bool) -> Tensor:
        # A latent is kept if fewer than k others precede it: larger, or equal and of lower index.
        larger = (pre[:, None, :] > pre[:, :, None]).sum(-1)
        earlier = torch.ones(pre.shape[-1], pre.shape[-1], dtype=torch.bool).tril(-1)
        equal = ((pre[:, None, :] == pre[:, :, None]) & earlier).sum(-1)
        return _keep(pre, larger + equal < k)

    return reference


def _batch_top_k(pre: Tensor, state: State, training: bool) -> Tensor:
    if not training:
        return _keep(pre, pre > state["threshold"])
    bound = pre.flatten().sort(descending=True).values[K * len(pre) - 1] if len(pre) else 0.0
    return _keep(pre, pre >= bound)


def _jump_relu(pre: Tensor, state: State, training: bool, *, to_inputs: bool = False) -> Tensor:
    threshold = state["log_threshold"].exp() if "log_threshold" in state else state["threshold"]
    constant = threshold.detach().clamp_min(0)
    box = ((pre - constant).abs() < BANDWIDTH / 2).to(pre.dtype).detach()
    # Zero in value; its slope in the threshold is the straight-through estimator's.
    slope = -constant / BANDWIDTH * box * (threshold - threshold.detach())
    if to_inputs:
        slope = slope + constant / BANDWIDTH * box * (pre - pre.detach())
    return pre * (pre > constant).to(pre.dtype) + slope


def _abs_top_k(pre: Tensor, state: State, training: bool) -> Tensor:
    chosen = pre.abs().sort(dim=-1, descending=True, stable=True).indices[:, :K]
    return torch.where(torch.zeros_like(pre).scatter(-1, chosen, 1.0) * pre.detach() != 0, pre, 0.0)


def _group_max(pre: Tensor, state: State, training: bool) -> Tensor:
    groups = pre.reshape(len(pre), K, -1).relu()
    return torch.where(groups == groups.amax(-1, keepdim=True), groups, 0.0).flatten(1)


def _gated(pre: Tensor, state: State, training: bool) -> Tensor:
    gate = (pre + state["gate_bias"] > 0).to(pre.dtype)
    return gate * functional.relu(state["log_scale"].exp() * pre + state["magnitude_bias"])


def _per_layer(
    reference: Callable[[Tensor, State, bool], Tensor],
) -> Callable[[Tensor, State, bool], Tensor]:
    def of_all(pre: Tensor, state: State, training: bool) -> Tensor:
        layers = enumerate(pre.split((7, 5), dim=-1))
        own = [{"threshold": state[f"threshold_{layer}"]} if state else {} for layer in (0, 1)]
        return torch.cat([reference(part, own[layer], training) for layer, part in layers], -1)

    return of_all


ACTIVATIONS = {
    "relu": ActivationCase(sd.ReLU(), lambda pre, state, training: functional.relu(pre)),
    "gelu": ActivationCase(sd.GELU(), lambda pre, state, training: pre * (1 + torch.erf(pre / 2**0.5)) / 2),
    "gelu_tanh": ActivationCase(
        sd.GELU(approximate="tanh"),
        lambda pre, state, training: pre * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (pre + 0.044715 * pre**3))) / 2,
    ),
    "silu": ActivationCase(sd.SiLU(), lambda pre, state, training: pre / (1 + torch.exp(-pre))),
    "top_1": ActivationCase(sd.TopK(1), _top_k(1)),
    "top_k": ActivationCase(sd.TopK(K), _top_k(K)),
    "top_all": ActivationCase(sd.TopK(N_LATENTS), _top_k(N_LATENTS)),
    "abs_top_k": ActivationCase(sd.AbsTopK(K), _abs_top_k),
    "group_max": ActivationCase(sd.GroupMax(K), _group_max),
    "gated": ActivationCase(sd.Gated(), _gated),
    "batch_top_k": ActivationCase(sd.BatchTopK(K), _batch_top_k),
    "top_k_per_layer": ActivationCase(sd.PerLayer(sd.TopK(K), n_latents=(7, 5)), _per_layer(_top_k(K))),
    "batch_top_k_per_layer": ActivationCase(
        sd.PerLayer((sd.BatchTopK(K), sd.BatchTopK(K)), n_latents=(7, 5)), _per_layer(_batch_top_k)
    ),
    "jump_relu": ActivationCase(sd.JumpReLU(threshold=THRESHOLD, bandwidth=BANDWIDTH), _jump_relu),
    "jump_relu_raw": ActivationCase(
        sd.JumpReLU(threshold=THRESHOLD, bandwidth=BANDWIDTH, learns="threshold"), _jump_relu
    ),
    "jump_relu_to_inputs": ActivationCase(
        sd.JumpReLU(threshold=THRESHOLD, bandwidth=BANDWIDTH, to_inputs=True), partial(_jump_relu, to_inputs=True)
    ),
}


# ---------------------------------------------------------------------------------------------------------------------
# Norms

NORMS = {"free": sd.Free(), "unit": sd.UnitNorm(), "max": sd.MaxNorm(0.7)}


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of dictionaries


@dataclass(frozen=True)
class KindCase:
    """How to make a kind, what reaches its encoder's matrix, and what it adds to the decoded latents."""

    make: Callable[..., sd.Dictionary]
    encoder_inputs: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    skipped: Callable[[Mapping[str, Tensor], Tensor], Tensor | float] = lambda weights, x: 0.0
    restored: Callable[[Tensor, Tensor], Tensor] = lambda decoded, x: decoded

    def pre_activations(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        inputs = self.encoder_inputs(weights, x)
        return torch.einsum("td,ld->tl", inputs, weights["encoder"]) + weights["encoder_bias"]

    def decoder(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns the decoder rows of all latents in one matrix."""
        return weights["decoder"]

    def output(self, weights: Mapping[str, Tensor], latents: Tensor, x: Tensor) -> Tensor:
        decoded = torch.einsum("tl,ld->td", latents, self.decoder(weights)) + weights["decoder_bias"]
        return self.restored(decoded, x) + self.skipped(weights, x)


SCALE = 1.7
_MEAN, _SCALE = torch.linspace(-0.5, 0.7, D_IN), torch.linspace(0.8, 1.5, D_IN)


@dataclass(frozen=True)
class CrossLayerCase(KindCase):
    """The same for latents that belong to layers, each of which reads and writes columns of its own.

    Attributes:
        reads: Columns that the latents of each layer read.
        writes: Columns that those of each layer write, a list for each layer that they write to.
        tied: Whether a latent has one decoder row for all layers.
    """

    reads: tuple[list[int], ...] = ()
    writes: tuple[list[list[int]], ...] = ()
    tied: bool = False

    def pre_activations(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        found = [
            torch.einsum("td,ld->tl", x[:, columns] / weights["input_scale"][layer], weights[f"encoder_{layer}"])
            for layer, columns in enumerate(self.reads)
        ]
        return torch.cat(found, -1) + weights["encoder_bias"]

    def decoder(self, weights: Mapping[str, Tensor]) -> Tensor:
        rows = []
        for layer, targets in enumerate(self.writes):
            own, start = weights[f"decoder_{layer}"], 0
            whole = own.new_zeros(len(own), len(weights["decoder_bias"]))
            for columns in targets:
                whole[:, columns] = own if self.tied else own[:, start : start + len(columns)]
                start += len(columns)
            rows.append(whole)
        return torch.cat(rows)

    def output(self, weights: Mapping[str, Tensor], latents: Tensor, x: Tensor) -> Tensor:
        decoded = torch.einsum("tl,ld->td", latents, self.decoder(weights)) + weights["decoder_bias"]
        scaled = decoded.clone()
        for layer, targets in enumerate(self.writes):
            scaled[:, targets[0]] = decoded[:, targets[0]] * weights["output_scale"][layer]
            if f"skip_{layer}" in weights:
                skipped = torch.einsum("td,od->to", x[:, self.reads[layer]], weights[f"skip_{layer}"])
                scaled[:, targets[0]] = scaled[:, targets[0]] + skipped
        return scaled


def _layer_normed(x: Tensor) -> Tensor:
    centred = x - x.sum(-1, keepdim=True) / D_IN
    return centred / ((centred.square().sum(-1, keepdim=True) / (D_IN - 1)).sqrt() + 1e-5)


def _layer_restored(y: Tensor, x: Tensor) -> Tensor:
    mean = x.sum(-1, keepdim=True) / D_IN
    return y * ((x - mean).square().sum(-1, keepdim=True) / (D_IN - 1)).sqrt() + mean


def _norms_over_root(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True).sqrt() / D_IN**0.5


def _distiller(**arguments: bool | sd.InputNorm) -> Callable[..., sd.Dictionary]:
    return lambda **parts: sd.SparseDistiller(D_IN, D_OUT, N_LATENTS, **arguments, **parts)


def _autoencoder(**arguments: str | sd.InputNorm) -> Callable[..., sd.Dictionary]:
    return lambda **parts: sd.SparseAutoencoder(D_IN, N_LATENTS, **arguments, **parts)


@dataclass(frozen=True)
class CrosscoderCase(KindCase):
    """The same for several points, each of which has a scale.

    Attributes:
        widths: Widths of the points.
    """

    widths: tuple[int, ...] = ()

    def scales(self, weights: Mapping[str, Tensor]) -> Tensor:
        return torch.repeat_interleave(weights["scale"], torch.tensor(self.widths))

    def pre_activations(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return super().pre_activations(weights, x / self.scales(weights))

    def output(self, weights: Mapping[str, Tensor], latents: Tensor, x: Tensor) -> Tensor:
        return super().output(weights, latents, x) * self.scales(weights)


def _cross_layer(
    layers: Mapping[str, tuple[int, int]], **arguments: sd.DecoderLayout | bool
) -> Callable[..., sd.Dictionary]:
    return lambda **parts: sd.CrossLayerDistiller(layers, (7, 5), **arguments, **parts)


KINDS = {
    "distiller": KindCase(_distiller(), lambda weights, x: x),
    "distiller_bias_skip": KindCase(
        _distiller(input_bias=True, skip=True),
        lambda weights, x: x + weights["input_bias"],
        lambda weights, x: torch.einsum("td,od->to", x, weights["skip"]),
    ),
    "autoencoder": KindCase(_autoencoder(), lambda weights, x: x - weights["decoder_bias"]),
    "autoencoder_own": KindCase(
        _autoencoder(input_offset="own", reads="neurons"), lambda weights, x: x + weights["input_bias"]
    ),
    "autoencoder_none": KindCase(_autoencoder(input_offset="none", reads="inputs"), lambda weights, x: x),
    "distiller_layer_norm": KindCase(
        _distiller(skip=True, input_norm=sd.InputLayerNorm()),
        lambda weights, x: _layer_normed(x),
        lambda weights, x: torch.einsum("td,od->to", x, weights["skip"]),
    ),
    "autoencoder_layer_norm": KindCase(
        _autoencoder(input_norm=sd.InputLayerNorm()),
        lambda weights, x: _layer_normed(x) - weights["decoder_bias"],
        restored=_layer_restored,
    ),
    "autoencoder_rms_norm": KindCase(
        _autoencoder(input_offset="none", input_norm=sd.InputRMSNorm()),
        lambda weights, x: x / _norms_over_root(x),
        restored=lambda decoded, x: decoded * _norms_over_root(x),
    ),
    "autoencoder_scale": KindCase(
        _autoencoder(input_offset="own", input_norm=sd.InputScale(SCALE)),
        lambda weights, x: SCALE * x + weights["input_bias"],
        restored=lambda decoded, x: decoded / SCALE,
    ),
    "distiller_centred": KindCase(
        _distiller(input_bias=True, input_norm=sd.InputCentre()),
        lambda weights, x: x - weights["input_mean"] + weights["input_bias"],
    ),
    "autoencoder_centred": KindCase(
        _autoencoder(input_norm=sd.InputCentre()),
        lambda weights, x: x - weights["input_mean"] - weights["decoder_bias"],
        restored=lambda decoded, x: decoded + _MEAN.to(decoded.dtype),
    ),
    "autoencoder_standardised": KindCase(
        _autoencoder(input_offset="none", input_norm=sd.InputStandardise()),
        lambda weights, x: (x - weights["input_mean"]) / weights["input_scale"],
        restored=lambda decoded, x: decoded * _SCALE.to(decoded.dtype) + _MEAN.to(decoded.dtype),
    ),
    "cross_layer": CrossLayerCase(
        _cross_layer({"0": (2, 3), "1": (4, 2)}),
        lambda weights, x: x,
        reads=([0, 1], [2, 3, 4, 5]),
        writes=([[0, 1, 2], [3, 4]], [[3, 4]]),
    ),
    "cross_layer_skip": CrossLayerCase(
        _cross_layer({"0": (3, 2), "1": (3, 3)}, layout=sd.NextLayers(0), skip=True),
        lambda weights, x: x,
        reads=([0, 1, 2], [3, 4, 5]),
        writes=([[0, 1]], [[2, 3, 4]]),
    ),
    "cross_layer_tied": CrossLayerCase(
        _cross_layer({"0": (2, 3), "1": (4, 3)}, layout=sd.TiedDecoders()),
        lambda weights, x: x,
        reads=([0, 1], [2, 3, 4, 5]),
        writes=([[0, 1, 2], [3, 4, 5]], [[3, 4, 5]]),
        tied=True,
    ),
    "crosscoder": CrosscoderCase(
        lambda **parts: sd.Crosscoder({"0": 4, "1": 2}, N_LATENTS, **parts), lambda weights, x: x, widths=(4, 2)
    ),
}


PLAIN_KINDS = [kind for kind, case in KINDS.items() if not isinstance(case, CrossLayerCase | CrosscoderCase)]
"""Kinds for a single site, as the files of other libraries hold them."""

PLAIN_PAIRS = [
    (kind, activation)
    for kind in PLAIN_KINDS
    for activation in ACTIVATIONS
    if kind in ("distiller", "autoencoder") or activation in ("relu", "top_k", "jump_relu")
]
"""Every plain kind with an activation of each form that files have, and every activation with a kind of each form."""

ALL_PAIRS = [(kind, activation) for kind in KINDS for activation in ACTIVATIONS]
"""Every kind with every activation, for properties that depend on both."""

PAIRS = [
    (list(KINDS)[(index + shift) % len(KINDS)], activation)
    for index, activation in enumerate(ACTIVATIONS)
    for shift in (0, len(KINDS) // 2)
]
"""Every activation with two kinds, and every kind with two activations or more: for all other properties."""


def make(
    kind: str = "distiller", activation: str = "relu", norm: str = "unit", *, dtype: torch.dtype = torch.float64
) -> sd.Dictionary:
    """Returns a dictionary with nothing left at zero, whose latents fire on some tokens and not on others."""
    generator = torch.Generator().manual_seed(1)
    dictionary = KINDS[kind].make(
        activation=ACTIVATIONS[activation].activation, decoder_norm=NORMS[norm], dtype=dtype, generator=generator
    )
    with torch.no_grad():
        for name, weight in dictionary.named_parameters():
            if not name.startswith(("encoder", "decoder")) or name.endswith("bias"):
                weight.add_(torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(dtype), alpha=0.2)
        # Along the first direction all latents agree, so that a token can turn all of them on or off.
        for block in dictionary.blocks():
            block.encoder[:, 0].abs_().add_(0.5)
        for name, buffer in dictionary.named_buffers():
            if name.startswith("activation_state.threshold"):
                buffer.fill_(THRESHOLD)
            elif name == "input_mean":
                buffer.copy_(_MEAN)
            elif name in ("input_scale", "output_scale", "scale"):
                buffer.copy_(torch.linspace(0.8, 1.5, len(buffer)))
    return dictionary


def tokens(n_tokens: int, *, dtype: torch.dtype = torch.float64, seed: int = 2) -> Tensor:
    """Returns activations ``[n_tokens, D_IN]``; the first turns all latents off, the second all of them on."""
    x = torch.randn(n_tokens, D_IN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for row, sign in ((0, -1), (1, 1)):
        if n_tokens > 2:
            x[row] = 0
            x[row, 0] = 20 * sign
    return x.to(dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Penalties


@dataclass(frozen=True)
class PenaltyCase:
    """A penalty, its formula ``(dense latents, decoder) -> number``, and activations that it serves."""

    penalty: sd.Penalty
    formula: Callable[[Tensor, Tensor], Tensor]
    activations: tuple[str, ...] = ("relu", "top_k", "batch_top_k", "jump_relu")


def _norms(decoder: Tensor) -> Tensor:
    return decoder.square().sum(-1).sqrt()


_WEIGHTS = torch.linspace(0.1, 1.2, N_LATENTS, dtype=torch.float64)
_JUMPS = ("jump_relu", "jump_relu_raw", "jump_relu_to_inputs")
_ANY = ("relu", "gelu", "silu", "top_k", "batch_top_k", "jump_relu")

PENALTIES = {
    "l1": PenaltyCase(sd.L1(0.3), lambda a, decoder: 0.3 * a.abs().sum(-1).mean(), _ANY),
    "l1_each": PenaltyCase(sd.L1(_WEIGHTS), lambda a, decoder: (_WEIGHTS.to(a) * a.abs()).sum(-1).mean(), _ANY),
    "sqrt": PenaltyCase(sd.Sqrt(0.3, eps=1e-2), lambda a, decoder: 0.3 * ((a + 1e-2).sqrt() - 0.1).sum(-1).mean()),
    "sqrt_each": PenaltyCase(
        sd.Sqrt(_WEIGHTS, eps=1e-2), lambda a, decoder: (_WEIGHTS.to(a) * ((a + 1e-2).sqrt() - 0.1)).sum(-1).mean()
    ),
    "lp": PenaltyCase(
        sd.Lp(0.3, p=0.7, eps=1e-2), lambda a, decoder: 0.3 * ((a + 1e-2) ** 0.7 - 1e-2**0.7).sum(-1).mean()
    ),
    "l1_weighted": PenaltyCase(
        sd.NormWeighted(sd.L1(0.3)), lambda a, decoder: 0.3 * (a.abs() * _norms(decoder)).sum(-1).mean(), _ANY
    ),
    "sqrt_weighted": PenaltyCase(
        sd.NormWeighted(sd.Sqrt(_WEIGHTS, eps=1e-2)),
        lambda a, decoder: (_WEIGHTS.to(a) * ((a * _norms(decoder) + 1e-2).sqrt() - 0.1)).sum(-1).mean(),
    ),
    "l1_warm": PenaltyCase(sd.WarmUp(sd.L1(0.3), 10), lambda a, decoder: 0.3 / 10 * a.abs().sum(-1).mean(), _ANY),
    "l0": PenaltyCase(sd.L0(0.3), lambda a, decoder: 0.3 * (a > 0).to(a).sum(-1).mean(), _JUMPS),
    "tanh": PenaltyCase(sd.Tanh(0.3, scale=2.0), lambda a, decoder: 0.3 * (2 * a.abs()).tanh().sum(-1).mean(), _ANY),
    "tanh_weighted": PenaltyCase(
        sd.NormWeighted(sd.Tanh(_WEIGHTS)),
        lambda a, decoder: (_WEIGHTS.to(a) * (4 * a.abs() * _norms(decoder)).tanh()).sum(-1).mean(),
        _ANY,
    ),
    "annealed_lp": PenaltyCase(
        sd.AnnealedLp(0.3, eps=1e-2), lambda a, decoder: 0.3 * ((a + 1e-2) - 1e-2).sum(-1).mean()
    ),
    "frequency_l0": PenaltyCase(
        sd.Frequency(0.3, scale=0.2), lambda a, decoder: 0.3 / 0.2 * (a > 0).to(a).mean(0).square().sum(), _JUMPS
    ),
    "target_l0": PenaltyCase(
        sd.TargetL0(2.0, 0.3), lambda a, decoder: 0.3 * ((a > 0).to(a).sum(-1).mean() / 2 - 1) ** 2, ("jump_relu",)
    ),
}
