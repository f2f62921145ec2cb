"""`match_neurons`, the nearest neuron of the MLP for each latent."""

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
    """The nearest neuron of each latent, by signed cosine.

    Attributes:
        decoder_cosine: Largest cosine of the latent's decoder row with the decoder row of a neuron, ``[n_latents]``.
        decoder_neuron: Index of this neuron, ``[n_latents]``.
        null_decoder: The same cosine for random directions, ``[n_latents]``.
        n_neurons: Number of neurons.
        encoder_cosine: Largest cosine of the latent's encoder row with the encoder row of a neuron, ``[n_latents]``.
            This and all following attributes are ``None`` if the dictionary or the neurons have no encoder.
        encoder_neuron: Index of this neuron, ``[n_latents]``.
        encoder_cosine_of_decoder_match: Cosine of the latent's encoder row with the encoder row of ``decoder_neuron``.
        null_encoder: ``encoder_cosine`` for random directions, ``[n_latents]``.
        gate_cosine: Largest cosine of the latent's encoder row with a gate row of a gated MLP, ``[n_latents]``.
        gate_neuron: Index of this neuron, ``[n_latents]``.
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
        """Mask of the latents whose encoder row and decoder row have the same nearest neuron."""
        return None if self.encoder_neuron is None else self.encoder_neuron == self.decoder_neuron

    def latents_per_neuron(self, latents: Bool[Tensor, " n_latents"]) -> Int[Tensor, " n_neurons"]:
        """Counts, for each neuron, the chosen latents whose decoder row is nearest to it."""
        checks.latent_vector("latents", latents, self.n_latents)
        return torch.bincount(self.decoder_neuron[latents], minlength=self.n_neurons)


def match_neurons(dictionary: Any, neurons: Any, *, reads: Role | None = None, seed: int = 0) -> NeuronMatch:
    """Finds the nearest neuron of the MLP for each latent, by decoder row and by encoder row.

    A row is compared with the rows of the neurons in the same activation space: with their encoder rows if it reads or
    writes the inputs of the MLP, with their decoder rows for the outputs, and with the coordinate axes for the
    activations of the neurons. For example, the encoder of an autoencoder of MLP outputs is compared with the *decoder*
    rows of the neurons. Cosines are signed and are computed in at least float32, in blocks.

    In a gated MLP, the encoder of the neurons is the up projection. Encoder rows are also compared with the gate. A
    gated neuron is invariant under a change of sign of both up projection and decoder row, so a latent with a cosine
    near -1 may also simulate a neuron. Check both ends of the distribution of cosines in this case.

    Args:
        dictionary: A `Dictionary`; a matrix of decoder rows ``[n_latents, d]``; a tuple (encoder, decoder) of such
            matrices; or an object of another library with ``decoder`` and ``encoder`` (matrices of rows, or linear
            layers) or ``W_dec`` and ``W_enc``.
        neurons: The neurons of the MLP, such as ``site.neurons``, or any of the above.
        reads: The activations that an object of another library reads: ``"inputs"`` (it writes outputs), or
            ``"outputs"`` or ``"neurons"`` (it writes the same). Matrices are those of a distiller by default.
        seed: Random seed of the random directions.

    Raises:
        TypeError: If the argument has no decoder rows.
        ValueError: If the widths differ, or the activations that the dictionary reads are unknown.

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
        raise ValueError(
            f"`neurons` must have an encoder if the dictionary writes {writes}, got decoder rows only. Pass a tuple "
            "(encoder, decoder)."
        )
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
    """Returns the rows of the neurons by activation space; ``None`` stands for the axes, unknown rows are left out."""
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
            f"The {side} rows of `dictionary`, which are in the space of the site's {role}, must have width {width} as "
            f"the neurons, got {tuple(rows.shape)}. Check that both are of one site, and that `reads` is correct."
        )
    return nearest(rows, others)


def _cosine_with(rows: Tensor, others: Tensor | None, index: Tensor) -> Tensor:
    rows = unit(rows)
    if others is None:
        return rows.gather(1, index[:, None]).squeeze(1)
    return (rows * unit(others).to(rows.device)[index]).sum(1).clamp(-1, 1)
