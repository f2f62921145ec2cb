"""Which original neuron each latent resembles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import as_role, resolve_points, unknown_points
from sparsedict.analysis._cosines import Nearest, directions, nearest, random_nearest, unit
from sparsedict.display import Displayed
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class NeuronMatch(Displayed):
    """For each latent the neuron nearest to it: that with the largest signed cosine.

    Attributes:
        decoder_cosine: Cosine of the latent's decoder row with the nearest neuron's, ``[n_latents]``.
        decoder_neuron: Which neuron that is, ``[n_latents]``.
        null_decoder: What as many random directions reach, ``[n_latents]``.
        n_neurons: Neurons compared with.
        encoder_cosine: The same for the encoder row, ``[n_latents]``; ``None``, as all below, where either side has
            no encoder.
        encoder_neuron: Which neuron that is, ``[n_latents]``.
        encoder_cosine_of_decoder_match: Cosine of the latent's encoder row with that of ``decoder_neuron``.
        null_encoder: What as many random directions reach, ``[n_latents]``.
        gate_cosine: The same for a gated MLP's gate rows.
        gate_neuron: Which neuron that is, ``[n_latents]``.
        gate_cosine_of_decoder_match: Cosine of the latent's encoder row with the gate row of ``decoder_neuron``.
    """

    decoder_cosine: Float[Tensor, " n_latents"]
    decoder_neuron: Int[Tensor, " n_latents"]
    null_decoder: Float[Tensor, " n_latents"]
    n_neurons: int
    encoder_cosine: Float[Tensor, " n_latents"] | None = None
    encoder_neuron: Int[Tensor, " n_latents"] | None = None
    encoder_cosine_of_decoder_match: Float[Tensor, " n_latents"] | None = None
    null_encoder: Float[Tensor, " n_latents"] | None = None
    gate_cosine: Float[Tensor, " n_latents"] | None = None
    gate_neuron: Int[Tensor, " n_latents"] | None = None
    gate_cosine_of_decoder_match: Float[Tensor, " n_latents"] | None = None

    @property
    def n_latents(self) -> int:
        return len(self.decoder_cosine)

    @property
    def agrees(self) -> Bool[Tensor, " n_latents"] | None:
        """Whether the encoder's nearest neuron is the decoder's nearest neuron."""
        return None if self.encoder_neuron is None else self.encoder_neuron == self.decoder_neuron

    def latents_per_neuron(self, latents: Bool[Tensor, " n_latents"]) -> Int[Tensor, " n_neurons"]:
        """Counts how many of the chosen latents have each neuron as their decoder's nearest."""
        checks.latent_vector("latents", latents, self.n_latents)
        return torch.bincount(self.decoder_neuron[latents], minlength=self.n_neurons)


def match_neurons(dictionary: Any, neurons: Any, *, reads: Role | None = None, seed: int = 0) -> NeuronMatch:
    """Finds for each latent the nearest neuron of the MLP, by decoder and by encoder.

    Each row is compared with the neurons' rows in the space that it lives in: what reads or writes the MLP's inputs
    with the neurons' encoder rows, its outputs with their decoder rows, their activations with the axes. So the
    encoder of an autoencoder of outputs is compared with the neurons' *decoder* rows: which neuron's writing it
    listens to. Cosines are signed; all are made in float32 or better, in blocks.

    In a gated MLP the neurons' encoder is the up projection, and the gate is compared beside it. Turning the signs of
    up projection and decoder leaves such a neuron as it is, so a latent with a cosine near -1 may simulate its
    negative half: look at both ends of the cosines there.

    Args:
        dictionary: A `Dictionary`; a matrix of decoder rows ``[n_latents, d]``; a tuple (encoder, decoder) of such
            matrices; or another library's object with ``decoder`` and ``encoder`` (matrices of rows, or linear
            layers) or ``W_dec`` and ``W_enc``.
        neurons: The MLP's own, such as ``site.neurons``, or any of the above.
        reads: Which activations another library's object takes: ``"inputs"`` (it writes outputs), ``"outputs"`` or
            ``"neurons"`` (it reproduces these). Matrices are taken for a distiller's by default.
        seed: Of the random directions.

    Raises:
        TypeError: If there are no decoder rows to be found.
        ValueError: If widths differ, or it isn't known what the dictionary reads.

    Source: figures 2, 3 and 7 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> import torch
        >>> match = match_neurons(torch.tensor([[0.0, 2.0], [-1.0, 0.1]]), torch.eye(2))
        >>> match.decoder_neuron
        tensor([1, 1])
    """
    encoder, decoder = directions("dictionary", dictionary)
    reads, writes = _roles(dictionary, encoder, reads)
    spaces = _spaces(neurons)
    by_decoder = _nearest("decoder", decoder, writes, spaces)
    if by_decoder is None:
        raise ValueError(f"`neurons` must have an encoder, for the dictionary writes {writes}, got only decoder rows.")
    null = random_nearest(decoder, spaces[writes], seed)
    n_neurons = len(spaces["outputs"])  # pyright: ignore[reportArgumentType]
    base = NeuronMatch(by_decoder.cosine, by_decoder.index, null, n_neurons)
    by_encoder = None if encoder is None else _nearest("encoder", encoder, reads, spaces)
    if encoder is None or by_encoder is None:
        return base
    gate = spaces.get("gate") if reads == "inputs" else None
    by_gate = None if gate is None else nearest(encoder, gate)
    return NeuronMatch(
        base.decoder_cosine,
        base.decoder_neuron,
        base.null_decoder,
        base.n_neurons,
        by_encoder.cosine,
        by_encoder.index,
        _cosine_with(encoder, spaces[reads], base.decoder_neuron),
        random_nearest(encoder, spaces[reads], seed + 1),
        None if by_gate is None else by_gate.cosine,
        None if by_gate is None else by_gate.index,
        None if gate is None else _cosine_with(encoder, gate, base.decoder_neuron),
    )


def _roles(dictionary: Any, encoder: Tensor | None, reads: Role | None) -> tuple[Role, Role]:
    found, writes = resolve_points(dictionary, reads)
    if found is None:
        if encoder is not None and not isinstance(dictionary, tuple):
            raise unknown_points(dictionary)
        return "inputs", "outputs"
    return as_role(found), as_role(writes)


def _spaces(neurons: Any) -> dict[str, Tensor | None]:
    """The neurons' rows by the activations they live among; ``None`` stands for axes, absence for rows not known."""
    encoder, decoder = directions("neurons", neurons)
    spaces: dict[str, Tensor | None] = {"outputs": decoder, "neurons": None}
    if encoder is not None:
        spaces["inputs"] = encoder
    gate = getattr(neurons, "gate", None)
    if isinstance(gate, Tensor):
        spaces["gate"] = gate
    return spaces


def _nearest(side: str, rows: Tensor, role: Role, spaces: dict[str, Tensor | None]) -> Nearest | None:
    if role not in spaces:
        return None
    others = spaces[role]
    decoder = spaces["outputs"]
    assert decoder is not None
    width = len(decoder) if others is None else others.shape[1]
    if rows.shape[1] != width:
        raise ValueError(
            f"The {side} rows of `dictionary`, among the site's {role}, must have the neurons' width {width}, got "
            f"{tuple(rows.shape)}. Are both of one site, and is `reads` right?"
        )
    return nearest(rows, others)


def _cosine_with(rows: Tensor, others: Tensor | None, index: Tensor) -> Tensor:
    rows = unit(rows)
    if others is None:
        return rows.gather(1, index[:, None]).squeeze(1)
    return (rows * unit(others).to(rows.device)[index]).sum(1).clamp(-1, 1)
