"""`LayersSpec`, the specification of a dictionary over several layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

import sparsedict as sd

from .dictionary_spec import SEED_STRIDE
from .setting import Training

BALANCED = sd.BalancedError()


@dataclass(frozen=True)
class LayersSpec:
    """The specification of a distiller of several MLPs, used like a `DictionarySpec`.

    Attributes:
        sites: Names of the sites of the experiment, in the order of the layers.
        n_latents: Number of latents of each layer.
        training: Training options.
        activation: Activation of the latents.
        layout: The layers that latents write to.
        penalties: Penalties.
        loss: Reconstruction loss. By default, every layer has equal weight.
        skip: Whether each layer has a linear skip connection.
        repeat: Index of the repetition. Each repetition has other initial weights and another order of the data.
    """

    sites: tuple[str, ...]
    n_latents: int
    training: Training
    activation: sd.Activation
    layout: sd.DecoderLayout
    penalties: tuple[sd.Penalty, ...] = ()
    loss: sd.Loss = BALANCED
    skip: bool = False
    repeat: int = 0

    warm = None

    def seed(self, base: int) -> int:
        """Returns the seed of the weights and the shuffle of this repetition, from the seed of the experiment."""
        return base + SEED_STRIDE * self.repeat

    @property
    def slug(self) -> str:
        """The unique name of the folder."""
        return f"layers-{self.n_latents}-{hashlib.sha256(repr(self).encode()).hexdigest()[:10]}"

    def make(self, sites: sd.Sites, seed: int) -> sd.CrossLayerDistiller:
        """Returns the untrained dictionary."""
        return sd.CrossLayerDistiller(
            sites,
            self.n_latents,
            activation=self.activation,
            decoder_norm=sd.UnitNorm(),
            layout=self.layout,
            skip=self.skip,
            generator=torch.Generator().manual_seed(seed),
            device=next(iter(sites.values())).device,
        )

    def recipe(self, sites: Mapping[str, sd.Site], seed: int, start_from: sd.Dictionary | None = None) -> sd.Recipe:
        """Returns the recipe of the dictionary."""
        own = sd.Sites({name: sites[name] for name in self.sites})
        return sd.Recipe(
            partial(self.make, own, seed), penalties=self.penalties, loss=self.loss, **self.training.options
        )
