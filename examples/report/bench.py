"""Where studies work: one model, its text, its dictionaries, and what was measured of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict import checks, zoo
from sparsedict.activations import GELU, SiLU
from sparsedict.analysis import FiringFrequencies, ReconstructionError, ablated_error
from sparsedict.analysis import firing_frequencies as count_firing
from sparsedict.batches import Activations
from sparsedict.dictionaries import Dictionary
from sparsedict.pages import TokenStrings, token_strings
from sparsedict.progress import Phases
from sparsedict.sites import Site

from .harvest import Harvest
from .losses import Ablations, SequenceLosses, predicted_positions, sequence_losses
from .order import Order
from .places import mlp, sites_of
from .setting import Setting
from .shelf import Shelf

ZOO_BOS = 0
READ_IN_PART = 60_000
UNTRAINED = 1e-12
"""Learning rate at which weights stay what they are."""


class Bench:
    """Where studies work: one model, its sites, its text, and the dictionaries trained so far.

    Args:
        sites: By name: ``"mlp 0"`` and so on, and ``"residual 0"`` for the stream after each layer.
        train_tokens: What to train on, ids ``[n_sequences, n_positions]``.
        held_out_tokens: What to measure on.
        setting: How much of everything.
        folder: Where trained dictionaries are kept, and looked for; nowhere by default.
        seed: Of weights and shuffles.
        progress: Whether to say on the standard error stream what is being done.
        strings: What tokens read, for examples: a function from a list of ids.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        train_tokens: Tensor,
        held_out_tokens: Tensor,
        setting: Setting,
        *,
        folder: str | os.PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = True,
        strings: TokenStrings | None = None,
    ) -> None:
        self.sites: dict[str, Site] = dict(sites)
        self.held_out_tokens: Tensor = held_out_tokens
        self.setting = setting
        self.seed: int = checks.at_least("seed", seed, 0)
        self.strings = strings
        self.phases: Phases = Phases(progress)
        run: dict[str, Any] = {"seed": seed, "phases": self.phases}
        self._train = Harvest(self.sites, train_tokens, setting.n_harvested, "training", **run)
        self._held_out = Harvest(self.sites, held_out_tokens, setting.n_held_out, "held-out", **run)
        self._shelf = Shelf(self.sites, self._train, folder=folder, progress=progress, **run)
        self._firing: dict[str, FiringFrequencies] = {}
        self._errors: dict[str, ReconstructionError] = {}
        self._losses: dict[str, SequenceLosses] = {}
        self._ablations: dict[str, Ablations] = {}
        self._predicted: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        train_tokens: Tensor,
        held_out_tokens: Tensor,
        setting: Setting,
        *,
        path: str = "transformer.h.{}.mlp",
        exclude_tokens: Sequence[int] = (),
        **options: Any,
    ) -> Bench:
        """Makes a bench of all MLPs of one model, and of the residual stream after each layer.

        Args:
            model: The model.
            train_tokens: See above.
            held_out_tokens: See above.
            setting: See above.
            path: Of the MLP in each layer, with ``{}`` for the layer's number.
            exclude_tokens: Ids whose positions are left out.
            options: See above.

        Raises:
            ValueError: If the path has no place for the number, or there is no such module in layer 0.
        """
        return cls(sites_of(model, path, exclude_tokens), train_tokens, held_out_tokens, setting, **options)

    @classmethod
    def zoo(cls, setting: Setting, *, device: torch.device | str = "cpu", **options: Any) -> Bench:
        """Makes a bench of the embedded model and its text.

        Args:
            setting: See above.
            device: Of the model, and so of all that is trained and measured.
            options: See above.

        Raises:
            ImportError: If transformers isn't installed (``pip install 'sparsedict[demo]'``).
        """
        train = zoo.tokens("train", n_tokens=_enough(setting.n_harvested))
        held_out = zoo.tokens("evaluation", n_tokens=_enough(max(setting.n_held_out, setting.n_loss_tokens)))
        options.setdefault("strings", token_strings(zoo.load_tokenizer()))
        model = nn.Module.to(zoo.load_model(), device)
        return cls.of(model, train, held_out, setting, exclude_tokens=[ZOO_BOS], **options)

    @property
    def folder(self) -> Path | None:
        """Where trained dictionaries are kept, and looked for."""
        return self._shelf.folder

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        self._shelf.folder = folder

    @property
    def layers(self) -> list[int]:
        """The layers whose MLPs are known."""
        return [int(name.split()[1]) for name in self.sites if name.startswith("mlp ")]

    @property
    def layer(self) -> int:
        """The layer that most results are about."""
        return self.layers[self.setting.layer]

    @property
    def other_layer(self) -> int:
        """The second layer."""
        return self.layers[self.setting.other_layer]

    def width(self, layer: int, expansion: int | None = None) -> int:
        """Returns how many latents a dictionary of one layer's MLP has."""
        return (expansion or self.setting.expansion) * self.sites[mlp(layer)].neurons.n

    def coefficient(self, coefficient: float, layer: int) -> float:
        """Scales a penalty's coefficient to a layer whose outputs are larger or smaller than the main one's.

        Decoder rows are bounded, so latents grow with the output, and the penalty with them; the squared error grows
        with the square. The balance is the same where the coefficient grows with the output's standard deviation.
        """
        if layer == self.layer:
            return coefficient
        scale = math.sqrt(self.variance(mlp(layer)) / self.variance(mlp(self.layer)))
        return float(f"{coefficient * scale:.4g}")

    def variance(self, site: str) -> float:
        """Returns the variance of a site's outputs on held-out tokens, summed over ``d_out``."""
        outputs = self.held_out(site).outputs
        return float((outputs - outputs.mean(0)).double().square().sum(1).mean())

    def held_out(self, site: str) -> Activations:
        """Returns a site's held-out activations."""
        return self._held_out.at(site)

    def sample(self, site: str) -> Activations:
        """Returns activations to fit something small to: those to train on where they fit in memory."""
        return self._train.at(site) if self._train.fits else self.held_out(site)

    def repeated(self, order: Order) -> list[Order]:
        """Returns an order once for each seed of the setting."""
        return [replace(order, repeat=repeat) for repeat in range(self.setting.n_seeds)]

    def other_seed(self, order: Order) -> Order:
        """Returns the same order with the next seed, of the same number of seeds where there are several."""
        return replace(order, repeat=(order.repeat + 1) % max(2, self.setting.n_seeds))

    def train(self, orders: Iterable[Order]) -> None:
        """Trains the dictionaries that aren't there yet, as many in one pass as can be, and keeps them."""
        self._shelf.train(orders)

    def dictionary(self, order: Order) -> Dictionary:
        """Returns the dictionary of an order, trained now if it wasn't before."""
        return self._shelf[order]

    def start(self, order: Order) -> Dictionary:
        """Returns a dictionary as training starts it from tokens, but untrained."""
        n_tokens = max(order.n_latents, order.training.batch_size)
        training = replace(order.training, n_tokens=n_tokens, lr=UNTRAINED, start="data", optimizer=None)
        return self.dictionary(replace(order, training=training, penalties=(), warm=None))

    def firing(self, order: Order) -> FiringFrequencies:
        """Counts firing on held-out tokens."""
        if order.slug not in self._firing:
            # GELU and SiLU latents are zero almost nowhere; the report counts them as active where they are positive.
            above = 0.0 if isinstance(order.activation, GELU | SiLU) else None
            self._firing[order.slug] = count_firing(self.dictionary(order), self.held_out(order.site), above=above)
        return self._firing[order.slug]

    def l0(self, order: Order) -> float:
        """Returns the latents active on a held-out token, on average."""
        firing = self.firing(order)
        return float(firing.counts.sum()) / firing.n_tokens

    def error(self, order: Order) -> ReconstructionError:
        """Measures the reconstruction on held-out tokens."""
        if order.slug not in self._errors:
            self._errors[order.slug] = ablated_error(self.dictionary(order), self.held_out(order.site), {}).full
        return self._errors[order.slug]

    @property
    def loss_tokens(self) -> Tensor:
        """Held-out sequences on which the model's losses are measured."""
        return self.held_out_tokens[: math.ceil(self.setting.n_loss_tokens / self.held_out_tokens.shape[1])]

    def losses(self, order: Order) -> SequenceLosses:
        """Measures the model's losses with a dictionary in its MLP's place."""
        if order.slug not in self._losses:
            self._losses[order.slug] = self.losses_of(order.site, self.dictionary(order))
        return self._losses[order.slug]

    def losses_of(self, site: str, x: Any) -> SequenceLosses:
        """Measures the model's losses with a dictionary or a constant in an MLP's place."""
        return sequence_losses(self.sites[site], self.loss_tokens, self.predicted, x)

    @property
    def predicted(self) -> Tensor:
        """The positions of `loss_tokens` whose token is predicted."""
        if self._predicted is None:
            self._predicted = predicted_positions(next(iter(self.sites.values())), self.loss_tokens)
        return self._predicted

    def ablations(self, site: str) -> Ablations:
        """Measures the model's losses with its MLP as it is, zeroed, and at its mean."""
        if site not in self._ablations:
            mean = self.held_out(site).outputs.float().mean(0)
            self._ablations[site] = Ablations.measure(self.sites[site], self.loss_tokens, self.predicted, mean)
        return self._ablations[site]


def _enough(n_tokens: int) -> int | None:
    """Returns how many tokens to take: all of the text, unless reading that would take longer than all the rest."""
    return None if n_tokens > READ_IN_PART else n_tokens + n_tokens // 20 + 1_024
