"""`DictionarySpec`, the specification of a dictionary of a study."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

import sparsedict as sd
from sparsedict.activations import Activation, ReLU
from sparsedict.dictionaries import Dictionary, SparseAutoencoder, SparseDistiller
from sparsedict.norms import DecoderNorm, MaxNorm
from sparsedict.penalties import Penalty
from sparsedict.sites import Site

from .setting import Training

RELU = ReLU()
AT_MOST_ONE = MaxNorm(1.0)
SEED_STRIDE = 1_000
"""Difference of the seeds of two repetitions. It is large, so that runs with similar seeds share no seed."""


@dataclass(frozen=True)
class DictionarySpec:
    """The specification of a dictionary. Studies with the same specification share the dictionary.

    Attributes:
        site: Name of a site of the experiment.
        n_latents: Number of latents.
        training: Training options.
        penalties: Sparsity penalties.
        kind: Kind of dictionary.
        activation: Activation of the latents.
        decoder_norm: Constraint on decoder rows.
        skip: Whether a distiller has a linear skip connection.
        warm: Specification of the dictionary whose weights are the initial weights. ``None`` draws new weights.
        repeat: Index of the repetition. Each repetition has other initial weights and another order of the data.
    """

    site: str
    n_latents: int
    training: Training
    penalties: tuple[Penalty, ...] = ()
    kind: Literal["distiller", "autoencoder"] = "distiller"
    activation: Activation = RELU
    decoder_norm: DecoderNorm = AT_MOST_ONE
    skip: bool = False
    warm: DictionarySpec | None = None
    repeat: int = 0

    def seed(self, base: int) -> int:
        """Returns the seed of the weights and the shuffle of this repetition, from the seed of the experiment."""
        return base + SEED_STRIDE * self.repeat

    @property
    def slug(self) -> str:
        """The unique name of the folder. The digest uses the former class name, so that earlier folders are found."""
        digest = hashlib.sha256(repr(self).replace("DictionarySpec(", "Order(").encode()).hexdigest()[:10]
        return re.sub(r"[^a-z0-9]+", "-", f"{self.site} {self.kind} {self.n_latents} {digest}".lower())

    def make(self, site: Site, seed: int, start_from: Dictionary | None = None) -> Dictionary:
        """Returns the untrained dictionary."""
        device = site.device
        parts = {
            "activation": self.activation,
            "decoder_norm": self.decoder_norm,
            "generator": torch.Generator().manual_seed(seed),
            "device": device,
        }
        dictionary: Dictionary
        if self.kind == "distiller":
            dictionary = SparseDistiller(site.d_in, site.d_out, self.n_latents, skip=self.skip, **parts)
        else:
            dictionary = SparseAutoencoder(site.d_out, self.n_latents, **parts)
        if start_from is not None:
            dictionary.load_state_dict(start_from.state_dict())
        elif self.training.start == "random":
            draw_(dictionary, seed)
        return dictionary

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites that training needs."""
        return (self.site,)

    def recipe(self, sites: Mapping[str, Site], seed: int, start_from: Dictionary | None = None) -> sd.Recipe:
        """Returns the recipe of the dictionary."""
        make = partial(self.make, sites[self.site], seed, start_from)
        return sd.Recipe(make, penalties=self.penalties, site=self.site, **self.training.options)


@torch.no_grad()
def draw_(dictionary: Dictionary, seed: int) -> None:
    """Draws the initial weights of the report: Kaiming-uniform matrices, then decoder rows of norm 1, and zero biases.

    The bound of the entries is ``sqrt(6 / n_latents)``, because the latents are columns in the report's matrices.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = math.sqrt(6.0 / dictionary.n_latents)
    for weight in (dictionary.encoder, dictionary.decoder):
        drawn = (2.0 * torch.rand(weight.shape, generator=generator) - 1.0) * bound
        weight.copy_(drawn)
    dictionary.decoder.copy_(torch.nn.functional.normalize(dictionary.decoder, dim=-1))
