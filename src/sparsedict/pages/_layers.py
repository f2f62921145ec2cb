"""The neurons and decoder rows of dictionaries that write several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict.adapters import Adapter
from sparsedict.analysis import Neighbours, neighbours
from sparsedict.batches import names_of
from sparsedict.dictionaries import Dictionary
from sparsedict.sites import Site, Sites


def neuron_rows(site: Site, role: str) -> Float[Tensor, "n_neurons d"]:
    """Returns the direction of each neuron of an MLP at its inputs, its outputs or its neurons."""
    neurons = site.neurons
    rows = {"outputs": neurons.decoder, "inputs": neurons.encoder}.get(role)
    return torch.eye(neurons.n, device="cpu", dtype=torch.float32) if rows is None else rows


def nearest_neurons_by_layer(
    sites: Sites, source: Dictionary, norms: Float[Tensor, "n_latents n_points"], k: int
) -> Neighbours:
    """Returns the nearest neurons of each latent at the point where its decoder norm is largest.

    Raises:
        ValueError: If an MLP has no readable neurons.
    """
    strongest, points = norms.argmax(1), names_of(source.writes)
    parts = _split(source)
    rows = [neuron_rows(sites[name], role) for name, _, role in (point.rpartition(".") for point in points)]
    k = min(k, *map(len, rows))
    latents = torch.zeros(len(norms), k, dtype=torch.long, device="cpu")
    cosine = torch.zeros(len(norms), k, device="cpu", dtype=torch.float32)
    for index, (part, own) in enumerate(zip(parts, rows, strict=True)):
        chosen = (strongest == index).nonzero().squeeze(1)
        if len(chosen):
            found = neighbours(part[chosen.to(part.device)], own, k=k)
            latents[chosen], cosine[chosen] = found.latents, found.cosine.float()
    return Neighbours(latents, cosine)


def rows_at(adapter: Adapter, own: Sequence[str], shared: Sequence[str]) -> Any:
    """Returns the decoder rows of a dictionary at some of the points that it writes.

    Args:
        adapter: The dictionary.
        own: Full names of the points that it writes.
        shared: Full names of the points to return, in the order of the rows.
    """
    if list(own) == list(shared):
        return adapter
    parts = dict(zip(own, _split(adapter.source), strict=True))
    return torch.cat([parts[point] for point in shared], 1)


def _split(source: Any) -> tuple[Float[Tensor, "n_latents d"], ...]:
    """Returns the decoder rows of a dictionary at each point that it writes."""
    rows, n = source.decoder.detach(), len(names_of(source.writes))
    widths = getattr(source, "point_widths", None) or (rows.shape[1] // n,) * n
    return rows.split(list(widths), dim=1)
