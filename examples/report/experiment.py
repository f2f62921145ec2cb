"""`Experiment`, the model, text, trained dictionaries and measurements that all studies share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

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

from .dictionary_cache import DictionaryCache, Spec
from .dictionary_spec import DictionarySpec
from .harvest import Harvest
from .layers_spec import LayersSpec
from .losses import Ablations, SequenceLosses, predicted_positions, sequence_losses
from .setting import Setting
from .sites import mlp, sites_of

S = TypeVar("S", DictionarySpec, LayersSpec)
ZOO_BOS = 0
READ_IN_PART = 60_000
UNTRAINED = 1e-12
"""Learning rate that leaves the weights unchanged."""


class Experiment:
    """A model, its sites, its text, and the dictionaries trained so far.

    Args:
        sites: Sites by name: ``"mlp 0"`` and so on for MLPs, ``"residual 0"`` and so on for the residual stream.
        train_tokens: Token ids of the training text, ``[n_sequences, n_positions]``.
        held_out_tokens: Token ids of the held-out text, ``[n_sequences, n_positions]``.
        setting: Sizes and hyperparameters.
        folder: Folder of trained dictionaries. ``None`` keeps them in memory only.
        seed: Seed of weights and shuffles.
        progress: Whether to print progress messages to the standard error stream.
        strings: Function from token ids to text, for examples.

    Attributes:
        pages: Folder to which studies write the pages of latents; ``None`` for none.
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
        self.pages: Path | None = None
        self.phases: Phases = Phases(progress)
        run: dict[str, Any] = {"seed": seed, "phases": self.phases}
        self._train = Harvest(self.sites, train_tokens, setting.n_harvested, "training", **run)
        self._held_out = Harvest(self.sites, held_out_tokens, setting.n_held_out, "held-out", **run)
        self._cache = DictionaryCache(self.sites, self._train, folder=folder, progress=progress, **run)
        self._firing: dict[str, FiringFrequencies] = {}
        self._errors: dict[str, ReconstructionError] = {}
        self._losses: dict[str, SequenceLosses] = {}
        self._ablations: dict[str, Ablations] = {}
        self._predicted: Tensor | None = None

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        train_tokens: Tensor,
        held_out_tokens: Tensor,
        setting: Setting,
        *,
        path: str = "transformer.h.{}.mlp",
        exclude_tokens: Sequence[int] = (),
        **options: Any,
    ) -> Experiment:
        """Returns an experiment with all MLPs of a model, and the residual stream after each layer.

        Args:
            model: The model.
            train_tokens: See above.
            held_out_tokens: See above.
            setting: See above.
            path: Path of the MLP in each layer, with ``{}`` for the number of the layer.
            exclude_tokens: Ids whose positions are excluded.
            options: See above.

        Raises:
            ValueError: If the path has no ``{}``, or there is no such module in layer 0.
        """
        return cls(sites_of(model, path, exclude_tokens), train_tokens, held_out_tokens, setting, **options)

    @classmethod
    def from_zoo(cls, setting: Setting, *, device: torch.device | str = "cpu", **options: Any) -> Experiment:
        """Returns an experiment with the embedded model and its text.

        Args:
            setting: See above.
            device: Device of the model and of the dictionaries.
            options: See above.

        Raises:
            ImportError: If transformers isn't installed (``pip install 'sparsedict[demo]'``).
        """
        train = zoo.tokens("train", n_tokens=_enough(setting.n_harvested))
        held_out = zoo.tokens("evaluation", n_tokens=_enough(max(setting.n_held_out, setting.n_loss_tokens)))
        options.setdefault("strings", token_strings(zoo.load_tokenizer()))
        model = nn.Module.to(zoo.load_model(), device)
        return cls.from_model(model, train, held_out, setting, exclude_tokens=[ZOO_BOS], **options)

    @property
    def folder(self) -> Path | None:
        """The folder of trained dictionaries."""
        return self._cache.folder

    @folder.setter
    def folder(self, folder: Path | None) -> None:
        self._cache.folder = folder

    @property
    def layers(self) -> list[int]:
        """The layers with an MLP."""
        return [int(name.split()[1]) for name in self.sites if name.startswith("mlp ")]

    @property
    def layer(self) -> int:
        """The main layer of the studies."""
        return self.layers[self.setting.layer]

    @property
    def other_layer(self) -> int:
        """The second layer."""
        return self.layers[self.setting.other_layer]

    def width(self, layer: int, expansion: int | None = None) -> int:
        """Returns the number of latents of a dictionary of the MLP in a layer."""
        return (expansion or self.setting.expansion) * self.sites[mlp(layer)].neurons.n

    def coefficient(self, coefficient: float, layer: int) -> float:
        """Returns a penalty coefficient scaled to a layer with another scale of outputs than the main layer.

        Decoder rows are bounded, so latents and the penalty are proportional to the outputs, and the squared error to
        their square. The balance is the same if the coefficient is proportional to the standard deviation of outputs.
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
        """Returns activations for fitting small models: the training activations if they fit in memory."""
        return self._train.at(site) if self._train.fits else self.held_out(site)

    def repeated(self, spec: S) -> list[S]:
        """Returns the specification once for each seed of the setting."""
        return [replace(spec, repeat=repeat) for repeat in range(self.setting.n_seeds)]

    def other_seed(self, spec: DictionarySpec) -> DictionarySpec:
        """Returns the same specification with the next seed, cyclically."""
        return replace(spec, repeat=(spec.repeat + 1) % max(2, self.setting.n_seeds))

    def train(self, specs: Iterable[Spec]) -> None:
        """Trains and keeps the dictionaries that don't exist yet, several in one pass if possible."""
        self._cache.train(specs)

    def dictionary(self, spec: Spec) -> Dictionary:
        """Returns the dictionary of a specification, which is trained on first use."""
        return self._cache[spec]

    def start(self, spec: DictionarySpec) -> Dictionary:
        """Returns a dictionary that is initialised from tokens but not trained."""
        n_tokens = max(spec.n_latents, spec.training.batch_size)
        training = replace(spec.training, n_tokens=n_tokens, lr=UNTRAINED, start="data", optimizer=None)
        return self.dictionary(replace(spec, training=training, penalties=(), warm=None))

    def firing(self, spec: DictionarySpec) -> FiringFrequencies:
        """Returns the firing frequencies on held-out tokens."""
        if spec.slug not in self._firing:
            # GELU and SiLU latents are almost never zero. The report counts positive latents as active.
            above = 0.0 if isinstance(spec.activation, GELU | SiLU) else None
            self._firing[spec.slug] = count_firing(self.dictionary(spec), self.held_out(spec.site), above=above)
        return self._firing[spec.slug]

    def l0(self, spec: DictionarySpec) -> float:
        """Returns the mean number of active latents per held-out token."""
        firing = self.firing(spec)
        return float(firing.counts.sum()) / firing.n_tokens

    def error(self, spec: DictionarySpec) -> ReconstructionError:
        """Returns the reconstruction error on held-out tokens."""
        if spec.slug not in self._errors:
            self._errors[spec.slug] = ablated_error(self.dictionary(spec), self.held_out(spec.site), {}).full
        return self._errors[spec.slug]

    @property
    def loss_tokens(self) -> Tensor:
        """Held-out sequences for the losses of the model."""
        return self.held_out_tokens[: math.ceil(self.setting.n_loss_tokens / self.held_out_tokens.shape[1])]

    def losses(self, spec: DictionarySpec) -> SequenceLosses:
        """Returns the losses of the model with an MLP replaced by its dictionary."""
        if spec.slug not in self._losses:
            self._losses[spec.slug] = self.losses_of(spec.site, self.dictionary(spec))
        return self._losses[spec.slug]

    def losses_of(self, site: str, x: Any) -> SequenceLosses:
        """Returns the losses of the model with an MLP replaced by a dictionary or a constant."""
        return sequence_losses(self.sites[site], self.loss_tokens, self.predicted, x)

    @property
    def predicted(self) -> Tensor:
        """Mask of the predicted positions of `loss_tokens`."""
        if self._predicted is None:
            self._predicted = predicted_positions(next(iter(self.sites.values())), self.loss_tokens)
        return self._predicted

    def ablations(self, site: str) -> Ablations:
        """Returns the losses of the original model and with zero and mean ablation of an MLP."""
        if site not in self._ablations:
            mean = self.held_out(site).outputs.float().mean(0)
            self._ablations[site] = Ablations.measure(self.sites[site], self.loss_tokens, self.predicted, mean)
        return self._ablations[site]


def _enough(n_tokens: int) -> int | None:
    """Returns the number of tokens to read, or None to read the whole text for large numbers."""
    return None if n_tokens > READ_IN_PART else n_tokens + n_tokens // 20 + 1_024
