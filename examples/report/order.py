"""A dictionary that a study asks for."""

from __future__ import annotations

import hashlib
import math
import re
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
"""Between repetitions, so that runs with neighbouring seeds share none."""


@dataclass(frozen=True)
class Order:
    """A dictionary as a study asks for it; two studies that ask for the same one share it.

    Attributes:
        site: Name of the bench's site.
        n_latents: Width.
        training: How it is trained.
        penalties: What presses it to be sparse.
        kind: What it is.
        activation: Of its latents.
        decoder_norm: The constraint on its decoder rows.
        skip: Whether a distiller has a linear skip.
        warm: The dictionary that it starts from, instead of new weights.
        repeat: Number of the repetition: each has other weights and another order of the data.
    """

    site: str
    n_latents: int
    training: Training
    penalties: tuple[Penalty, ...] = ()
    kind: Literal["distiller", "autoencoder"] = "distiller"
    activation: Activation = RELU
    decoder_norm: DecoderNorm = AT_MOST_ONE
    skip: bool = False
    warm: Order | None = None
    repeat: int = 0

    def seed(self, base: int) -> int:
        """Returns the seed of this repetition's weights and shuffle, from the bench's."""
        return base + SEED_STRIDE * self.repeat

    @property
    def slug(self) -> str:
        """A name for its folder, which no other order has."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:10]
        return re.sub(r"[^a-z0-9]+", "-", f"{self.site} {self.kind} {self.n_latents} {digest}".lower())

    def make(self, site: Site, seed: int, start_from: Dictionary | None = None) -> Dictionary:
        """Returns the dictionary as it is before training."""
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

    def recipe(self, site: Site, seed: int, start_from: Dictionary | None = None) -> sd.Recipe:
        """Returns how it is made and trained."""
        make = partial(self.make, site, seed, start_from)
        return sd.Recipe(make, penalties=self.penalties, site=self.site, **self.training.options)


@torch.no_grad()
def draw_(dictionary: Dictionary, seed: int) -> None:
    """Draws weights as the report did: Kaiming-uniform matrices, decoder rows then of norm 1, zero biases.

    Entries lie within ``sqrt(6 / n_latents)`` of zero, for the report's matrices have their latents as columns.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = math.sqrt(6.0 / dictionary.n_latents)
    for weight in (dictionary.encoder, dictionary.decoder):
        drawn = (2.0 * torch.rand(weight.shape, generator=generator) - 1.0) * bound
        weight.copy_(drawn)
    dictionary.decoder.copy_(torch.nn.functional.normalize(dictionary.decoder, dim=-1))
