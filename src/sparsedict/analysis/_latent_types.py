"""`latent_types`, the division of latents into simulators of neurons, sparse latents and dead latents."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis._firing import DeadLatents
from sparsedict.analysis._neuron_match import NeuronMatch
from sparsedict.display import Displayed


@dataclass(frozen=True, eq=False, repr=False)
class LatentTypes(Displayed):
    """Masks of the simulators, sparse latents and dead latents of a dictionary.

    Every latent has exactly one type. A dead latent is neither a simulator nor sparse.

    Attributes:
        simulators: Latents with a decoder cosine above the threshold, ``[n_latents]``.
        sparse: All other latents that aren't dead, ``[n_latents]``.
        threshold: The threshold.
        dead: Latents that never fired, ``[n_latents]``. ``None`` if they are unknown; then ``simulators`` and
            ``sparse`` may contain dead latents.
    """

    simulators: Bool[Tensor, " n_latents"]
    sparse: Bool[Tensor, " n_latents"]
    threshold: float
    dead: Bool[Tensor, " n_latents"] | None = None

    @property
    def n_latents(self) -> int:
        return len(self.simulators)

    @property
    def n_simulators(self) -> int:
        return int(self.simulators.sum())

    @property
    def n_sparse(self) -> int:
        return int(self.sparse.sum())

    @property
    def n_dead(self) -> int | None:
        return None if self.dead is None else int(self.dead.sum())

    @property
    def share(self) -> float:
        """Share of simulators among all latents."""
        return self.n_simulators / self.n_latents

    def __str__(self) -> str:
        text = (
            f"{self.n_simulators:,} simulators ({self.share:.1%}, cosine > {self.threshold}), {self.n_sparse:,} sparse"
        )
        return text if self.n_dead is None else f"{text}, {self.n_dead:,} never fired"


def latent_types(
    match: NeuronMatch | Float[Tensor, " n_latents"],
    threshold: float = 0.8,
    *,
    dead: DeadLatents | Bool[Tensor, " n_latents"] | None = None,
) -> LatentTypes:
    """Divides latents into simulators, dead latents and sparse latents.

    The decoder row of a simulator is nearly parallel to that of a neuron.

    Args:
        match: The result of `match_neurons`, or signed decoder cosines ``[n_latents]``.
        threshold: Signed cosine above which a latent is a simulator. The default is that of the source.
        dead: Latents that never fire, as returned by `dead_latents`. Without this argument, dead latents count as
            simulators or sparse latents.

    Raises:
        ValueError: If the threshold isn't in [-1, 1], or ``dead`` isn't a mask of these latents.

    Source: slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> import torch
        >>> types = latent_types(torch.tensor([0.95, 0.3, -0.99]))
        >>> types.simulators, types.n_sparse
        (tensor([ True, False, False]), 2)
        >>> print(latent_types(torch.tensor([0.95, 0.3, 0.99]), dead=torch.tensor([False, False, True])))
        1 simulators (33.3%, cosine > 0.8), 1 sparse, 1 never fired
    """
    threshold = checks.in_range("threshold", threshold, -1.0, 1.0)
    checks.instance("match", match, NeuronMatch | Tensor, "the result of `match_neurons`, or cosines [n_latents]")
    cosines = match.decoder_cosine if isinstance(match, NeuronMatch) else match
    mask = dead.mask if isinstance(dead, DeadLatents) else dead
    if mask is not None:
        mask = checks.latent_vector("dead", mask, len(cosines)).bool().to(cosines.device)
    above = cosines > threshold
    if mask is None:
        return LatentTypes(above, ~above, threshold)
    return LatentTypes(above & ~mask, ~above & ~mask, threshold, mask)
