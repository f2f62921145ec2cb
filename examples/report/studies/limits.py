"""Lower limits of a dictionary's error with better values or a better choice of latents, and simple baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedict.activations import ReLU
from sparsedict.batches import ActivationBatch, Activations
from sparsedict.dictionaries import Dictionary, SparseDistiller
from sparsedict.latents import fires
from sparsedict.metrics import fvu
from sparsedict.norms import Free
from sparsedict.sites import Neurons

N_SOLVED = 1_024
"""Number of tokens for which the optimal values are computed."""
RIDGE = 1e-5


@torch.no_grad()
def best_values(dictionary: Dictionary, held: Activations, k: int) -> float:
    """Returns the FVU with optimal values of the active latents, at most ``k`` for each token."""
    inputs, targets, base = _without_latents(dictionary, held)
    latents = dictionary.encode(inputs)
    chosen = latents.abs().topk(k, dim=-1).indices
    # Rows of inactive latents are set to zero, so that they have no effect.
    rows = dictionary.decoder[chosen] * fires(latents.gather(-1, chosen))[..., None]
    return float(fvu(base + _solved(rows, targets - base), targets))


@torch.no_grad()
def best_choice(dictionary: Dictionary, held: Activations, k: int) -> float:
    """Returns the FVU with ``k`` latents chosen by matching pursuit of the target, and their optimal values.

    Matching pursuit adds, one by one, the latent whose decoder row is nearest to the residual.
    """
    _, targets, base = _without_latents(dictionary, held)
    norms = dictionary.decoder.norm(dim=-1).clamp_min(1e-12)
    directions = dictionary.decoder / norms[:, None]
    left = targets - base
    chosen = torch.empty(len(left), 0, dtype=torch.int64, device=left.device)
    for _ in range(k):
        similarity = (left @ directions.T).scatter_(1, chosen, -torch.inf)
        value, nearest = similarity.max(dim=1, keepdim=True)
        left = left - value.clamp_min(0) * directions[nearest.squeeze(1)]
        chosen = torch.cat([chosen, nearest], dim=1)
    return float(fvu(base + _solved(directions[chosen], targets - base), targets))


def _without_latents(dictionary: Dictionary, held: Activations) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the inputs, the targets, and the output of the dictionary without active latents."""
    inputs, targets = dictionary.select(ActivationBatch(held.inputs[:N_SOLVED], held.outputs[:N_SOLVED]))
    nothing = inputs.new_zeros(len(inputs), dictionary.n_latents)
    return inputs, targets, dictionary.reconstruct(nothing, inputs)


def _solved(rows: Tensor, wanted: Tensor) -> Tensor:
    """Returns the linear combination of each token's rows ``[n_tokens, k, d]`` that is nearest to ``wanted``."""
    gram = rows @ rows.mT + RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    values = torch.linalg.solve(gram, rows @ wanted[..., None])
    return (rows.mT @ values).squeeze(-1)


@torch.no_grad()
def best_linear(sample: Activations) -> SparseDistiller:
    """Returns the best affine map from MLP input to output, as a distiller with a single inactive latent."""
    x, y = sample.inputs.double(), sample.outputs.double()
    centre_x, centre_y = x.mean(0), y.mean(0)
    x, y = x - centre_x, y - centre_y
    covariance = x.T @ x
    covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())
    slope = torch.linalg.solve(covariance, x.T @ y).T.float()
    linear = SparseDistiller(x.shape[1], y.shape[1], 1, activation=ReLU(), decoder_norm=Free(), skip=True).to(x.device)
    linear.encoder.zero_()
    linear.decoder.zero_()
    linear.skip.copy_(slope)  # pyright: ignore
    linear.decoder_bias.copy_(centre_y.float() - slope @ centre_x.float())
    return linear


@torch.no_grad()
def own_neurons(neurons: Neurons, held: Activations, count: int) -> float:
    """Returns the FVU of the strongest neurons of the MLP for each token, with all other neurons at their means."""
    activations = neurons.encode(held.inputs[:N_SOLVED])
    mean = activations.mean(0)
    strength = (activations - mean).abs() * neurons.decoder.norm(dim=1)
    keep = torch.zeros_like(activations, dtype=torch.bool)
    keep.scatter_(1, strength.topk(min(count, activations.shape[1]), dim=-1).indices, True)
    return float(fvu(neurons.decode(torch.where(keep, activations, mean)), held.outputs[:N_SOLVED]))
