"""`Nested`, the Matryoshka loss, in which the first latents alone reconstruct the targets too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.latents import SparseLatents, Support, per_entry
from sparsedict.losses._loss import Loss
from sparsedict.losses._squared_error import SquaredError


@dataclass(frozen=True)
class Nested(Loss):
    r"""The loss of the whole dictionary plus the losses of its first latents alone (Matryoshka).

    .. math:: \ell(\hat y) + \sum_m \ell(\mathrm{reconstruct}(z_{1:m}, x))

    The first latents learn general features, because they must reconstruct the targets without the later ones. The
    activation selects among all latents, so the loss works with any activation. Penalties are unchanged. In a
    dictionary over several layers, the first ``m`` latents of each layer are used.

    Args:
        widths: Numbers of latents :math:`m`, in ascending order. The whole dictionary is always included.
        detached: Whether an inner loss trains only the latents that the previous width lacks. Contributions of earlier
            latents are constants in it, and parameters that belong to no latent get the gradient of the smallest width.
            The loss of the whole dictionary trains all latents in both cases.
        loss: The loss :math:`\ell`.

    Source: Bussmann et al., "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", 2025, arXiv
    2503.17547; ``detached``: the training of Chanin and Garriga-Alonso, "SynthSAEBench", 2026, arXiv 2602.14687.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(8, 32, activation=sd.BatchTopK(4), decoder_norm=sd.UnitNorm())
        >>> loss = sd.Nested((4, 16))
        >>> history = sd.fit(sae, torch.randn(512, 8), n_tokens=1024, batch_size=256, loss=loss, progress=False)
    """

    widths: Sequence[int]
    detached: bool = False
    loss: Loss = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        widths = checks.integers("widths", self.widths, 1, "a list of numbers of latents such as [128, 512]")
        if any(later <= earlier for earlier, later in pairwise(widths)):
            raise ValueError(f"`widths` must be in ascending order, got {list(widths)}.")
        object.__setattr__(self, "widths", widths)
        checks.set_boolean(self, "detached")
        if not isinstance(self.loss, Loss) or isinstance(self.loss, Nested):
            raise TypeError(f"`loss` must be a Loss such as sd.SquaredError(), got {self.loss!r}.")

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        inner = self._reconstructions(out)
        return torch.stack([self.loss(replace(out, reconstruction=own)) for own in (out.reconstruction, *inner)]).sum()

    def _reconstructions(self, out: ForwardPass) -> Iterator[Float[Tensor, "n_tokens d_out"]]:
        """Yields the reconstruction from the first latents alone, for each inner width."""
        widths = [width for width in self.widths if width < max(_sizes(out.dictionary))]
        earlier: Tensor | None = None
        for own in first_latents(out, widths):
            # The difference of two reconstructions has no gradient in earlier latents.
            yield own if earlier is None or not self.detached else own - earlier + earlier.detach()
            earlier = own

    def check(self, dictionary: Dictionary) -> None:
        size = max(_sizes(dictionary))
        if self.widths[-1] > size:
            subject = "layer" if dictionary.layer_sizes else "dictionary"
            raise ValueError(f"`widths` must be at most {size}, the latents of the {subject}, got {self.widths[-1]}.")
        self.loss.check(dictionary)


def first_latents(out: ForwardPass, widths: Sequence[int]) -> Sequence[Float[Tensor, "n_tokens d_out"]]:
    """Returns the reconstructions from the first latents of the dictionary or of each layer, for each width."""
    if not widths:
        return []
    dictionary, values = out.dictionary, out.values
    positions = _positions(dictionary, values.device)
    if out.support is None:
        return [dictionary.reconstruct(values * (positions < width), out.inputs) for width in widths]
    # One product for all widths, as if their latents were those of further tokens.
    n, support = len(widths), out.support
    own = per_entry(positions, support.latents)
    kept = torch.cat([torch.where(own < width, values, 0.0) for width in widths])
    starts = [support.offsets[:-1] + index * support.n_entries for index in range(n)]
    offsets = torch.cat([*starts, support.offsets.new_full((1,), n * support.n_entries)])
    repeated = Support(support.latents.repeat(n), offsets, support.n_latents, memory=support.memory)
    latents = SparseLatents(kept, repeated, torch.Size((n * out.n_tokens,)))
    return dictionary.reconstruct(latents, out.inputs.repeat(n, 1)).split(out.n_tokens)


def _sizes(dictionary: Dictionary) -> tuple[int, ...]:
    """Returns the number of latents of each layer, over all processes that share them."""
    if dictionary.shard is not None:
        return dictionary.shard.sizes if dictionary.layer_sizes else (sum(dictionary.shard.sizes),)
    return dictionary.layer_sizes or (dictionary.n_latents,)


def _positions(dictionary: Dictionary, device: torch.device) -> Int[Tensor, " n_latents"]:
    """Returns the index of each latent among the latents of its layer."""
    if dictionary.shard is not None:
        return dictionary.shard.positions if dictionary.layer_sizes else dictionary.shard.latents
    return torch.cat([torch.arange(size, device=device) for size in _sizes(dictionary)])
