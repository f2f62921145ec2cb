"""Four kinds that are written outside the package: two dictionaries over several MLPs and two losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import sparsedict as sd


class CrossLayer(sd.Dictionary):
    """A cross-layer transcoder: latents of layer i read its input and write the outputs of layers i and later.

    Weights between a latent and layers that it doesn't read or write are zero, and get no gradient.
    """

    has_affine_encoder = True

    def __init__(self, n_layers: int, d: int, n_latents: int, **options: Any) -> None:
        self.reads = tuple(f"{layer}.inputs" for layer in range(n_layers))
        self.writes = tuple(f"{layer}.outputs" for layer in range(n_layers))
        super().__init__(n_layers * d, n_layers * d, n_latents, **options)
        of_latent = torch.arange(n_latents)[:, None] * n_layers // n_latents
        of_column = torch.arange(n_layers * d) // d
        self.n_layers = n_layers
        self.register_buffer("read_columns", of_latent == of_column, persistent=False)
        self.register_buffer("written_columns", of_latent <= of_column, persistent=False)

    def initialise_(self, inputs: Tensor, targets: Tensor) -> None:
        super().initialise_(inputs, targets)
        with torch.no_grad():
            self.encoder.mul_(self.read_columns)
            self.decoder.mul_(self.written_columns)
            self.decoder_norm.constrain_(self.decoder)

    def pre_activations(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.encoder * self.read_columns, self.encoder_bias)

    def pre_activations_at(self, x: Tensor, support: sd.Support, known: Tensor | None = None) -> Tensor:
        known = None if known is None else known.detach()
        return sd.kernels.affine_at(x, self.encoder * self.read_columns, self.encoder_bias, support, known)

    def decode(self, latents: Tensor | sd.SparseLatents) -> Tensor:
        return sd.kernels.matmul(latents, self.decoder * self.written_columns) + self.decoder_bias

    def split_sources(self) -> list[Source]:
        """Returns the latents of each layer as an object of their own, so that a model can run layer by layer."""
        return [Source(self, layer) for layer in range(self.n_layers)]

    def arguments(self) -> dict[str, Any]:
        return {"n_layers": self.n_layers, "d": self.d_in // self.n_layers, "n_latents": self.n_latents}


class Source:
    """The latents of one layer of a cross-layer dictionary whose activation is elementwise."""

    def __init__(self, whole: CrossLayer, layer: int) -> None:
        d = whole.d_in // whole.n_layers
        self.whole, self.layer = whole, layer
        self.reads, self.writes = whole.reads[layer], whole.writes[layer:]
        self.columns = slice(layer * d, (layer + 1) * d)
        self.latents = whole.read_columns[:, layer * d].nonzero().squeeze(1)

    def encode(self, x: Tensor) -> Tensor:
        inputs = x.new_zeros(*x.shape[:-1], self.whole.d_in)
        inputs[..., self.columns] = x
        return self.whole.encode(inputs)[..., self.latents]

    def decode(self, latents: Tensor) -> Tensor:
        all_latents = latents.new_zeros(*latents.shape[:-1], self.whole.n_latents)
        all_latents[..., self.latents] = latents
        decoded = self.whole.decode(all_latents) - (self.whole.decoder_bias if self.layer else 0)
        return decoded[..., self.columns.start :]


class Crosscoder(sd.Dictionary):
    """One set of latents that reads and writes several points."""

    def __init__(self, points: tuple[str, ...], width: int, n_latents: int, **options: Any) -> None:
        self.reads = self.writes = tuple(points)
        super().__init__(width, width, n_latents, **options)

    def arguments(self) -> dict[str, Any]:
        return {"points": self.reads, "width": self.d_in, "n_latents": self.n_latents}


@dataclass(frozen=True)
class Nested(sd.Loss):
    """The Matryoshka loss: the squared error of the reconstructions by the first latents alone, mean over widths."""

    widths: tuple[int, ...]

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        indices = torch.arange(out.dictionary.n_latents, device=out.inputs.device)
        errors = []
        for width in self.widths:
            values = torch.where(out.aligned(indices) < width, out.values, 0.0)
            latents = values if out.support is None else sd.SparseLatents(values, out.support, out.inputs.shape[:1])
            error = out.dictionary.reconstruct(latents, out.inputs) - out.targets
            errors.append(error.square().sum(-1).mean())
        return torch.stack(errors).mean()


class _Written:
    """A reconstruction that has been computed already, in an MLP's place."""

    reads = writes = "outputs"

    def __init__(self, outputs: Tensor) -> None:
        self.outputs = outputs

    def encode(self, x: Tensor) -> Tensor:
        return x[..., :0]

    def decode(self, latents: Tensor) -> Tensor:
        return self.outputs.view(*latents.shape[:-1], -1)


@dataclass(frozen=True)
class EndToEnd(sd.Loss):
    """KL divergence between the model's predictions as it is and with the reconstruction in the MLP's place."""

    site: sd.Site
    context: int

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        assert out.batch is not None
        assert out.batch.tokens is not None
        tokens = out.batch.tokens.view(-1, self.context)
        with torch.no_grad():
            expected = self.site.logits(tokens).log_softmax(-1)
        with self.site.replaced(_Written(out.reconstruction)):
            predicted = self.site.logits(tokens).log_softmax(-1)
        return functional.kl_div(predicted, expected, reduction="sum", log_target=True) / out.n_tokens
