"""`Crosscoder`, a dictionary with one set of latents for several points."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.batches import Points as PointNames
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._point_scales import columns, measure_
from sparsedict.dictionaries._scales import Scales, spread
from sparsedict.dictionaries._start import start_from
from sparsedict.latents import SparseLatents
from sparsedict.norms import DecoderNorm, Free
from sparsedict.types import Role

Points = Mapping[str, Any] | Sequence[tuple[str, int]]
"""`Sites`; a mapping of point names to widths, such as ``{"0.outputs": 64}``; or a sequence of ``(name, width)``."""


class Crosscoder(Dictionary):
    r"""Sparse dictionary that reconstructs several points together: layers of a model, or one layer of two models.

    The encoder sums the contributions of all points. Each latent has a decoder row for each point. With
    :math:`s_p` the spread of the activations at point :math:`p`:

    .. math::
        a = \mathrm{activation}\Big(\sum_p E_p x_p / s_p + b\Big), \qquad y_p = s_p (a D_p + c_p)

    The spreads are 1 until ``fit`` measures them before the first step. They prevent points with large activations
    from dominating. ``decoder_norm=sd.UnitNorm()`` constrains the concatenation of a latent's rows. ``PerPoint(...)``
    constrains each row separately: with ``PerPoint(UnitNorm())``, each latent writes to all points with the same norm.
    `sparsedict.analysis.decoder_shares` compares the norms at the points.

    To train on two models, capture both on the same tokens with
    ``sd.Sites({"base": sd.Site(a, path), "tuned": sd.Site(b, path)})``.

    Args:
        points: `Sites`; a mapping of point names to widths, such as ``{"0.outputs": 64, "1.outputs": 64}``; or a
            sequence of ``(name, width)``.
        n_latents: Number of latents.
        activation: Activation of the latents. With ReLU and an L1 penalty, the rows of latents that write little to a
            point become zero there, so that these latents seem exclusive to other points. BatchTopK doesn't have this
            effect.
        decoder_norm: The constraint on decoder rows.
        reads: Activations of `Sites` to reconstruct: ``"inputs"``, ``"outputs"`` or ``"neurons"``. It is also the role
            of points whose names don't end in a role.
        device: Device of the weights.
        dtype: Data type of the weights.
        generator: Generator of the random weights.

    Raises:
        ValueError: If there are fewer than two points, or a point is named twice.

    Source: Lindsey et al., "Sparse Crosscoders for Cross-Layer Features and Model Diffing", 2024; the effect of L1 in
    Minder et al., "Robustly Identifying Concepts Introduced During Chat Fine-Tuning Using Crosscoders", 2025.

    Example:
        >>> import torch, sparsedict as sd
        >>> crosscoder = sd.Crosscoder(
        ...     {"base": 8, "tuned": 8}, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm()
        ... )
        >>> crosscoder.reads
        ('base.outputs', 'tuned.outputs')
        >>> crosscoder.point_norms().shape
        torch.Size([32, 2])
    """

    scale: Tensor

    def __init__(
        self,
        points: Points,
        n_latents: int,
        *,
        activation: Activation,
        decoder_norm: DecoderNorm,
        reads: Role = "outputs",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        checks.one_of("reads", reads, ("inputs", "outputs", "neurons"))
        named = _points_of(points, reads)
        self.point_widths: tuple[int, ...] = tuple(named.values())
        self.reads: PointNames = tuple(named)
        self.writes: PointNames = self.reads
        width = sum(self.point_widths)
        options: dict[str, Any] = {"device": device, "dtype": dtype, "generator": generator}
        super().__init__(width, width, n_latents, activation=activation, decoder_norm=decoder_norm, **options)
        self.register_buffer("scale", torch.ones_like(self.encoder_bias[:1].detach()).repeat(len(named)))

    def _initial_encoder(self, decoder: Tensor, d_in: int, generator: torch.Generator | None) -> Tensor:
        return decoder.clone()

    def encoder_inputs(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        return x / columns(self.scale, self.point_widths)

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, inputs: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_in"]:
        return self._decoded(latents, columns(self.scale, self.point_widths))

    def in_decoder_scale(self, difference: Float[Tensor, "n_tokens d_out"]) -> Float[Tensor, "n_tokens d_out"]:
        return difference / columns(self.scale, self.point_widths)

    def initialise_(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> None:
        measure_(self.scale, targets, self.point_widths)
        start_from(self, inputs, self.in_decoder_scale(targets))

    def scales(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> Scales:
        encoded, decoded = self.encoder_inputs(inputs), self.in_decoder_scale(targets)
        return Scales(spread(inputs), spread(encoded), spread(decoded), spread(targets))

    def exported(self) -> Exported:
        return self.folded()._exported(is_distiller=False)

    @torch.no_grad()
    def folded(self) -> Crosscoder:
        folded, own = copy.deepcopy(self), columns(self.scale, self.point_widths)
        folded.encoder.div_(own)
        folded.decoder.mul_(own)
        folded.decoder_bias.mul_(own)
        folded.scale.fill_(1.0)
        folded.decoder_norm = Free()
        return folded

    def arguments(self) -> dict[str, Any]:
        return {"points": tuple(zip(self.reads, self.point_widths, strict=True)), "n_latents": self.n_latents}


def _points_of(given: Any, reads: Role) -> dict[str, int]:
    """Returns the width of each point by its full name."""
    if isinstance(given, Mapping):
        pairs = [(name, _width(value, reads)) for name, value in given.items()]
    elif isinstance(given, Sequence) and not isinstance(given, str) and all(_is_pair(item) for item in given):
        pairs = [(item[0], item[1]) for item in given]
    else:
        raise TypeError(
            "`points` must be `Sites`, a mapping of names to widths such as {'0.outputs': 64, '1.outputs': 64}, or "
            f"tuples (name, width), got {given!r}."
        )
    if len(pairs) < 2:
        raise ValueError(f"`points` must name at least two points, got {len(pairs)}. Use sd.SparseAutoencoder for one.")
    found: dict[str, int] = {}
    for name, width in pairs:
        if not isinstance(name, str) or not name:
            raise ValueError(f"`points` must have names that are non-empty strings, got {name!r}.")
        full = name if name.rpartition(".")[2] in ("inputs", "outputs", "neurons") else f"{name}.{reads}"
        if full in found:
            raise ValueError(f"`points` must name each point once, got {full!r} twice.")
        found[full] = checks.at_least(f"points[{name!r}]", width, 1)
    return found


def _is_pair(item: object) -> bool:
    return isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2


def _width(value: Any, reads: Role) -> Any:
    """Returns the width of a point of a site. Values that aren't sites are returned unchanged."""
    if not hasattr(value, "d_in"):
        return value
    return value.neurons.n if reads == "neurons" else value.d_in if reads == "inputs" else value.d_out
