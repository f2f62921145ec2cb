"""`feature_recovery`, which compares a dictionary with the known features of synthetic data."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._cosines import decoder_of, units
from sparsedict.analysis._detection import Detection, best_thresholds
from sparsedict.data.synthetic import SyntheticFeatures, TeacherMLP
from sparsedict.display import Displayed, listed, shown
from sparsedict.latents import SparseLatents, fires
from sparsedict.seeds import generator
from sparsedict.types import Role

_NULL = int.from_bytes(b"recovery", "big")
COSINE = 0.9
N_ORACLE = 2**22
"""Number of projections that the oracle sorts at once."""


@dataclass(frozen=True, eq=False, repr=False)
class FeatureRecovery(Displayed):
    """The known features that a dictionary has found.

    Every feature has at most one latent: the assignment with the largest sum of signed decoder cosines.

    Attributes:
        cosine: Cosine of each feature with its latent; 0 without one, ``[n_features]``.
        latent: Latent of each feature; -1 without one, ``[n_features]``.
        null: The same cosine for random directions instead of latents, ``[n_features]``.
        firing: How well the latent detects its feature. A feature without a latent has recall 0.
        oracle: How well the true direction detects the feature: a feature is detected where the projection of the input
            on its direction exceeds the threshold that is best on other tokens.
        nearest: How well each latent detects the feature nearest to its decoder row, ``[n_latents]``.
        threshold: Cosine from which on a feature is recovered.
        n_tokens: Number of tokens on which detection is measured.
    """

    cosine: Float[Tensor, " n_features"]
    latent: Int[Tensor, " n_features"]
    null: Float[Tensor, " n_features"]
    firing: Detection
    oracle: Detection
    nearest: Detection
    threshold: float
    n_tokens: int

    @property
    def recovered(self) -> float:
        """Share of features whose latent has at least the threshold's cosine."""
        return float((self.cosine >= self.threshold).double().mean())

    @property
    def recovered_null(self) -> float:
        """The same share for random directions."""
        return float((self.null >= self.threshold).double().mean())

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of the assigned pairs, which is known as MCC."""
        assigned = self.latent >= 0
        return float(self.cosine[assigned].double().mean())

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the rows of the table in a notebook."""
        rows = [
            (f"features recovered (cosine >= {self.threshold:g})", f"{self.recovered:.1%}"),
            ("for random directions", f"{self.recovered_null:.1%}"),
            ("mean cosine of pairs", f"{self.mean_cosine:.3f}"),
        ]
        for name, own in (
            ("features", self.firing),
            ("oracle", self.oracle),
            ("latents, nearest feature", self.nearest),
        ):
            values = (own.mean_precision, own.mean_recall, own.mean_f1)
            rows.append((f"precision, recall, F1: {name}", ", ".join(shown(value, ".3f") for value in values)))
        return [*rows, ("tokens", f"{self.n_tokens:,}")]

    def __str__(self) -> str:
        return listed(self.display_rows())


def feature_recovery(
    dictionary: Any,
    truth: SyntheticFeatures | TeacherMLP,
    *,
    n_tokens: int = 20_000,
    seed: int = 2**20,
    threshold: float = COSINE,
    reads: Role | None = None,
) -> FeatureRecovery:
    r"""Compares a dictionary with the known features of synthetic data.

    Each feature is assigned to at most one latent, so that the sum of signed cosines of decoder rows is largest. The
    share of features with a cosine of at least ``threshold`` counts as recovered. Precision, recall and F1 say how well
    the firing of a latent detects its feature; means are over the features that are active on at least one token. The
    oracle has the true directions and chooses the best threshold for each.

    The assignment takes memory for a matrix ``[n_latents, n_features]``: about a second for 1,536 latents, and a minute
    or more for 4,096 latents and 16,384 features.

    Args:
        dictionary: A `Dictionary`, or an object with ``encode`` and decoder rows (see `match_neurons`).
        truth: The synthetic features that the dictionary was trained on.
        n_tokens: Number of new tokens on which detection is measured. The oracle's thresholds are chosen on as many
            further tokens.
        seed: Seed of the tokens and of the random directions.
        threshold: Cosine from which on a feature is recovered.
        reads: The point that an object of another library reads, ``"inputs"`` or ``"outputs"``.

    Raises:
        ImportError: If SciPy isn't installed (``pip install 'sparsedict[scores]'``).
        TypeError: If ``truth`` isn't synthetic features with directions.
        ValueError: If the widths differ.

    Source: the assignment follows Chanin and Garriga-Alonso, "SynthSAEBench: Evaluating Sparse Autoencoders on Scalable
    Realistic Synthetic Data", 2026, arXiv 2602.14687, who also report ``nearest.mean_f1``.

    Example:
        >>> import sparsedict as sd
        >>> truth = sd.data.SyntheticFeatures(d=16, n_features=24, l0=2)
        >>> sae = sd.SparseAutoencoder(16, 32, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
        >>> found = feature_recovery(sae, truth, n_tokens=500)
        >>> found.cosine.shape, 0 <= found.recovered <= 1
        (torch.Size([24]), True)
    """
    if not isinstance(truth, SyntheticFeatures | TeacherMLP):
        raise TypeError(f"`truth` must be SyntheticFeatures or TeacherMLP, got {type(truth).__name__}.")
    threshold = checks.in_range("threshold", threshold, 0.0, 1.0, open_low=True)
    n_tokens = checks.at_least("n_tokens", n_tokens, 1)
    adapter = Adapter(dictionary, reads)
    points = adapter.points
    rows, directions = decoder_of("dictionary", dictionary), _directions(truth, points[1])
    if rows.shape[1] != directions.shape[1]:
        raise ValueError(
            f"`dictionary` must write activations of the truth's width, {directions.shape[1]}, got {rows.shape[1]}."
        )
    rows, directions = units(rows, directions)
    cosine, latent = _assigned(rows @ directions.T)
    random = torch.randn(rows.shape, generator=generator(seed, _NULL), device="cpu").to(rows)
    null, _ = _assigned(units(random, directions)[0] @ directions.T)
    nearest = (rows @ directions.T).argmax(1).cpu()
    firing, by_latent = _detected(adapter, truth, latent, nearest, n_tokens, seed)
    oracle = _oracle(truth, points[0], n_tokens, seed)
    return FeatureRecovery(cosine, latent, null, firing, oracle, by_latent, threshold, n_tokens)


def _directions(truth: SyntheticFeatures | TeacherMLP, writes: object) -> Float[Tensor, "n_features d"]:
    """Returns the directions of the features at the point that the dictionary writes."""
    if writes == "outputs":
        return truth.writes
    if writes == "inputs" and isinstance(truth, SyntheticFeatures):
        return truth.reads
    raise ValueError(
        f"`dictionary` must write the outputs, or the inputs of SyntheticFeatures, got {writes!r} for a "
        f"{type(truth).__name__}."
    )


def _assigned(cosines: Float[Tensor, "n_latents n_features"]) -> tuple[Tensor, Tensor]:
    """Returns the cosine and the latent of each feature; 0 and -1 without a latent."""
    try:
        assignment = importlib.import_module("scipy.optimize").linear_sum_assignment
    except ModuleNotFoundError as error:
        raise ImportError("The optimal assignment needs scipy: pip install 'sparsedict[scores]'.") from error
    matrix = cosines.cpu()
    latents, features = (torch.from_numpy(part) for part in assignment(matrix.numpy(), maximize=True))
    cosine = matrix.new_zeros(matrix.shape[1])
    latent = torch.full((matrix.shape[1],), -1, device="cpu")
    cosine[features], latent[features] = matrix[latents, features], latents
    return cosine.clamp(-1, 1), latent


def _detected(
    adapter: Adapter,
    truth: SyntheticFeatures | TeacherMLP,
    latent: Int[Tensor, " n_features"],
    nearest: Int[Tensor, " n_latents"],
    n_tokens: int,
    seed: int,
) -> tuple[Detection, Detection]:
    """Returns the detection of features by their latents, and of the nearest features by all latents."""
    own, others = Detection.empty(len(latent)), Detection.empty(len(nearest))
    size = min(n_tokens, adapter.n_rows, max(1, 2**24 // len(latent)))
    with evaluation_mode(adapter.source):
        for number, start in enumerate(range(0, n_tokens, size)):
            batch, codes = truth.draw(min(size, n_tokens - start), generator(seed, _NULL, 0, number))
            latents = adapter.encode_sparse(adapter.fit(adapter.inputs(batch)))
            dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
            active, present = fires(dense).cpu(), codes > 0
            found: Bool[Tensor, "n_tokens n_features"] = active[:, latent.clamp_min(0)] & (latent >= 0)
            own, others = own + Detection.of(found, present), others + Detection.of(active, present[:, nearest])
    return own, others


def _oracle(truth: SyntheticFeatures | TeacherMLP, reads: object, n_tokens: int, seed: int) -> Detection:
    """Returns the detection by true directions with the best threshold for each feature."""
    rows = truth.writes if reads == "outputs" else truth.reads
    (chosen, chosen_codes), (held_out, codes) = (truth.draw(n_tokens, generator(seed, _NULL, part)) for part in (1, 2))
    found = []
    for own, present, held_present in zip(
        *(part.split(max(1, N_ORACLE // n_tokens), dim) for part, dim in ((rows, 0), (chosen_codes, 1), (codes, 1))),
        strict=True,
    ):
        thresholds = best_thresholds(chosen[str(reads)] @ own.T, present > 0)
        found.append(Detection.of(held_out[str(reads)] @ own.T > thresholds, held_present > 0))
    return Detection.cat(found)
