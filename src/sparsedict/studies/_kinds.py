"""The kinds of dictionaries that studies and the commands train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sparsedict.activations import Activation, PerLayer
from sparsedict.dictionaries import (
    Crosscoder,
    CrossLayerDistiller,
    Dictionary,
    SparseAutoencoder,
    SparseDistiller,
)
from sparsedict.losses import BalancedError
from sparsedict.norms import InputCentre
from sparsedict.sites import Site, Sites
from sparsedict.training import DefaultLR, LazyAdam


@dataclass(frozen=True)
class Kind:
    """A kind of dictionary. A new kind needs an entry in `KINDS`, and its name in the option ``--kind``.

    Attributes:
        name: Name of the kind, and of the folder of its dictionary.
        make: Function that returns a new dictionary. Its arguments are the site, the number of latents, and the parts
            of a dictionary. If ``is_joint``, they are all `Sites` and the number of latents of each site by name.
        is_joint: Whether one dictionary reads or writes all sites.
        has_skip: Whether ``make`` takes ``skip``.
        has_k_per_site: Whether the number of active latents of a recipe is that of each site.
        is_transcoder: Whether the dictionary computes outputs of MLPs from their inputs. Attribution graphs need it.
        n_latents: Function from the latents that each site would have alone to those of the dictionary, by site.
        options: Function that returns arguments of `Trainee` that differ from the defaults of `recipes`.
        top_k_options: As ``options``, for `TopK`, `BatchTopK` and `AbsTopK` only.
    """

    name: str
    make: Callable[..., Dictionary]
    is_joint: bool = False
    has_skip: bool = False
    has_k_per_site: bool = False
    is_transcoder: bool = False
    n_latents: Callable[[Mapping[str, int]], dict[str, int]] = dict
    options: Callable[[], dict[str, Any]] = dict
    top_k_options: Callable[[], dict[str, Any]] = dict


def distiller(site: Site, n_latents: int, **parts: Any) -> SparseDistiller:
    """Returns a new distiller of the MLP at a site.

    Args:
        site: The site of the MLP.
        n_latents: Number of latents.
        parts: Other arguments of `SparseDistiller`. By default the mean input is subtracted.
    """
    return SparseDistiller(site.d_in, site.d_out, n_latents, **{"input_norm": InputCentre(), **parts})


def autoencoder(site: Site, n_latents: int, **parts: Any) -> SparseAutoencoder:
    """Returns a new autoencoder of the MLP output at a site.

    Args:
        site: The site of the MLP.
        n_latents: Number of latents.
        parts: Other arguments of `SparseAutoencoder`.
    """
    return SparseAutoencoder(site.d_out, n_latents, **parts)


def cross_layer(sites: Sites, n_latents: Mapping[str, int], *, activation: Activation, **parts: Any) -> Dictionary:
    """Returns a new cross-layer distiller of several MLPs, whose activation selects latents in each layer.

    Args:
        sites: The sites of the MLPs.
        n_latents: Number of latents of each layer, by name of its site.
        activation: Activation of the latents of one layer.
        parts: Other arguments of `CrossLayerDistiller`.
    """
    in_layers = activation if activation.elementwise or isinstance(activation, PerLayer) else PerLayer(activation)
    return CrossLayerDistiller(sites, n_latents, activation=in_layers, **parts)


def crosscoder(sites: Sites, n_latents: Mapping[str, int], **parts: Any) -> Crosscoder:
    """Returns a new crosscoder of the outputs of several MLPs.

    Args:
        sites: The sites of the MLPs.
        n_latents: Number of latents by name of the site, equal for all sites, since all sites share the latents.
        parts: Other arguments of `Crosscoder`.
    """
    return Crosscoder(sites, max(n_latents.values()), **parts)


def _shared_by_all(n_latents: Mapping[str, int]) -> dict[str, int]:
    return dict.fromkeys(n_latents, max(n_latents.values(), default=0))


def _balanced() -> dict[str, Any]:
    return {"loss": BalancedError()}


def _fast_distiller() -> dict[str, Any]:
    # With the usual second decay of 0.999, the second moment averages over all steps of a short run. If gradients
    # suddenly grow, rows then move by many times the rate. Autoencoders of two MLPs have a higher error with 0.98. At
    # this rate, long runs of autoencoders have spikes of the error.
    return {"lr": DefaultLR(1.5), "optimizer": partial(LazyAdam, betas=(0.9, 0.98))}


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("distiller", distiller, has_skip=True, is_transcoder=True, top_k_options=_fast_distiller),
        Kind("autoencoder", autoencoder),
        Kind(
            "cross-layer",
            cross_layer,
            is_joint=True,
            has_skip=True,
            has_k_per_site=True,
            is_transcoder=True,
            options=_balanced,
        ),
        Kind("crosscoder", crosscoder, is_joint=True, n_latents=_shared_by_all, options=_balanced),
    )
}
"""All kinds by name."""
BOTH = tuple(name for name, kind in KINDS.items() if not kind.is_joint)
"""The kinds of one site that studies train by default."""
