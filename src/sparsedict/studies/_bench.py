"""Where studies work: the model's sites, their activations, and dictionaries that are trained once and kept."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsedict import checks, zoo
from sparsedict.analysis import FiringFrequencies, LossRecovered, ReconstructionError, ablated_error, loss_recovered
from sparsedict.analysis import firing_frequencies as count_firing
from sparsedict.data import ActivationStream
from sparsedict.dictionaries import Dictionary
from sparsedict.loading import load
from sparsedict.pages import token_strings
from sparsedict.sites import Site
from sparsedict.studies._order import Order
from sparsedict.studies._phases import Phases
from sparsedict.studies._setting import Setting
from sparsedict.training import fit_many
from sparsedict.types import ActivationBatch

HELD_BYTES = 4 * 2**30
"""Most activations that are held in memory; beyond, each pass harvests anew."""
TRAINED_TOGETHER = 8
"""Dictionaries in one pass over activations that are in memory; they are saved when the pass is done."""
HARVEST_SIZE = 4096
ZOO_BOS = 0
READ_IN_PART = 60_000
LOG_EVERY = 200
CHECKPOINT_EVERY = timedelta(minutes=1)

Held = dict[str, ActivationBatch]


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
        strings: Any = None,
    ) -> None:
        self.sites: dict[str, Site] = dict(sites)
        self.train_tokens: Tensor = train_tokens
        self.held_out_tokens: Tensor = held_out_tokens
        self.setting = setting
        self.folder: Path | None = None if folder is None else Path(folder)
        self.seed: int = checks.at_least("seed", seed, 0)
        self.strings = strings
        self.phases: Phases = Phases(progress)
        self._progress = progress
        self._train: Held = {}
        self._held_out: Held = {}
        self._dictionaries: dict[str, Dictionary] = {}
        self._firing: dict[str, FiringFrequencies] = {}
        self._errors: dict[str, ReconstructionError] = {}
        self._losses: dict[str, LossRecovered] = {}

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
        if "{}" not in path or "." not in path:
            raise ValueError(
                f"`path` must have {{}} for the layer's number, such as model.layers.{{}}.mlp, got {path!r}."
            )
        modules = dict(model.named_modules())
        sites: dict[str, Site] = {}
        layers = [n for n in range(len(modules)) if path.format(n) in modules]
        if not layers:
            raise ValueError(f"`path` must lead to a module of the model, but there is no {path.format(0)!r}.")
        for layer in layers:
            sites[mlp(layer)] = Site(model, path.format(layer), exclude_tokens=exclude_tokens)
        for layer in layers:
            point = f"{path.format(layer).rpartition('.')[0]}:out"
            sites[residual(layer)] = Site(model, reads=point, writes=point, exclude_tokens=exclude_tokens)
        return cls(sites, train_tokens, held_out_tokens, setting, **options)

    @classmethod
    def zoo(cls, setting: Setting, **options: Any) -> Bench:
        """Makes a bench of the embedded model and its text.

        Args:
            setting: See above.
            options: See above.

        Raises:
            ImportError: If transformers isn't installed (``pip install 'sparsedict[demo]'``).
        """
        train = zoo.tokens("train", n_tokens=_enough(setting.n_harvested))
        held_out = zoo.tokens("evaluation", n_tokens=_enough(setting.n_held_out))
        options.setdefault("strings", token_strings(zoo.load_tokenizer()))
        return cls.of(zoo.load_model(), train, held_out, setting, exclude_tokens=[ZOO_BOS], **options)

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

    def held_out(self, site: str) -> ActivationBatch:
        """Returns a site's held-out activations."""
        if site not in self._held_out:
            names = self._kin(site)
            with self.phases("harvesting", f"running the model on {self.setting.n_held_out:,} held-out tokens"):
                self._held_out |= self._harvest(names, self.held_out_tokens, self.setting.n_held_out)
        return self._held_out[site]

    def training_data(self, sites: Iterable[str]) -> Any:
        """Returns training activations of some sites: in memory where they fit, otherwise as a stream."""
        wanted = list(dict.fromkeys(sites))
        per_token = sum(4 * (self.sites[name].d_in + self.sites[name].d_out) for name in self.sites)
        if self.setting.n_harvested * per_token > HELD_BYTES:
            return None
        missing = [name for name in wanted if name not in self._train]
        if missing:
            names = list(dict.fromkeys(kin for name in missing for kin in self._kin(name)))
            with self.phases("harvesting", f"running the model on {self.setting.n_harvested:,} tokens to train on"):
                self._train |= self._harvest(names, self.train_tokens, self.setting.n_harvested)
        return {name: self._train[name] for name in wanted}

    def train(self, orders: Iterable[Order]) -> None:
        """Trains those that aren't there yet, as many in one pass as can be, and keeps them."""
        waiting = [order for order in dict.fromkeys(orders) if not self._is_known(order)]
        first = list(dict.fromkeys(o.warm for o in waiting if o.warm is not None and not self._is_known(o.warm)))
        if first:
            self.train(first)
            waiting = [order for order in waiting if not self._is_known(order)]
        passes: dict[tuple[int, int], list[Order]] = {}
        for order in waiting:
            passes.setdefault((order.training.n_tokens, order.training.batch_size), []).append(order)
        for (n_tokens, batch_size), together in passes.items():
            for start in range(0, len(together), TRAINED_TOGETHER):
                self._train_together(together[start : start + TRAINED_TOGETHER], n_tokens, batch_size)

    def dictionary(self, order: Order) -> Dictionary:
        """Returns what was ordered, trained now if it wasn't before."""
        if not self._is_known(order):
            self.train([order])
        return self._dictionaries[order.slug]

    def firing(self, order: Order) -> FiringFrequencies:
        """Counts firing on held-out tokens."""
        if order.slug not in self._firing:
            self._firing[order.slug] = count_firing(self.dictionary(order), self.held_out(order.site))
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

    def losses(self, order: Order) -> LossRecovered:
        """Measures the model's losses with a dictionary in its MLP's place."""
        if order.slug not in self._losses:
            self._losses[order.slug] = self.losses_of(order.site, self.dictionary(order))
        return self._losses[order.slug]

    def losses_of(self, site: str, dictionary: Any) -> LossRecovered:
        """Measures the model's losses with anything that encodes and decodes in an MLP's place."""
        mean = self.held_out(site).outputs.float().mean(0)
        n_tokens = self.setting.n_loss_tokens
        return loss_recovered(self.sites[site], dictionary, self.held_out_tokens, n_tokens=n_tokens, mean=mean)

    def _kin(self, site: str) -> list[str]:
        """Sites of one sort are harvested in one pass."""
        return [name for name in self.sites if name.split()[0] == site.split()[0]]

    def _harvest(self, names: Sequence[str], tokens: Tensor, n_tokens: int) -> Held:
        """Runs the model once and holds what each site reads and writes."""
        sites = {name: self.sites[name] for name in names}
        stream = ActivationStream(sites, tokens, batch_size=HARVEST_SIZE, buffer_size=4 * HARVEST_SIZE, seed=self.seed)
        held: dict[str, tuple[Tensor, Tensor]] = {}
        n_seen = 0
        for batch in stream:
            assert isinstance(batch, dict)
            rows = min(HARVEST_SIZE, n_tokens - n_seen)
            for name, part in batch.items():
                if name not in held:
                    shapes = ((n_tokens, part.inputs.shape[1]), (n_tokens, part.outputs.shape[1]))
                    held[name] = (part.inputs.new_empty(shapes[0]), part.outputs.new_empty(shapes[1]))
                inputs, outputs = held[name]
                rows = min(rows, len(part))
                inputs[n_seen : n_seen + rows] = part.inputs[:rows]
                outputs[n_seen : n_seen + rows] = part.outputs[:rows]
            n_seen += rows
            if n_seen >= n_tokens:
                break
        return {name: ActivationBatch(i[:n_seen], o[:n_seen]) for name, (i, o) in held.items()}

    def _is_known(self, order: Order) -> bool:
        if order.slug in self._dictionaries:
            return True
        if self.folder is None or not (self.folder / order.slug / "dictionary.json").is_file():
            return False
        self._dictionaries[order.slug] = load(self.folder / order.slug)
        return True

    def _train_together(self, orders: Sequence[Order], n_tokens: int, batch_size: int) -> None:
        data = self.training_data(order.site for order in orders)
        dictionaries = {o.slug: self._make(o) for o in orders}
        trainees = {o.slug: o.trainee(dictionaries[o.slug]) for o in orders}
        options: dict[str, Any] = {"batch_size": batch_size, "seed": self.seed}
        if data is None:
            sites = {order.site: self.sites[order.site] for order in orders}
            data, options = ActivationStream(sites, self.train_tokens, **options), {}
        what = "1 dictionary" if len(orders) == 1 else f"{len(orders)} dictionaries in one pass"
        # What asks for a dictionary may well do so while it measures, without gradients.
        with torch.enable_grad(), self.phases("training", f"training {what} on {n_tokens:,} tokens"):
            half_done = self._checkpoints(dictionaries)
            if half_done is not None:
                options |= {"checkpoint": half_done, "checkpoint_every": CHECKPOINT_EVERY, "resume": True}
            fit_many(trainees, data, n_tokens=n_tokens, progress=self._progress, log_every=LOG_EVERY, **options)
        for slug, dictionary in dictionaries.items():
            dictionary.trained_on["seed"] = self.seed
            if self.folder is not None:
                dictionary.save(self.folder / slug)
            self._dictionaries[slug] = dictionary
        if half_done is not None:
            shutil.rmtree(half_done, ignore_errors=True)

    def _checkpoints(self, slugs: Iterable[str]) -> Path | None:
        """Returns where a pass that is stopped leaves what it goes on from."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(" ".join(slugs).encode()).hexdigest()[:16]
        return self.folder / f"training-{digest}"

    def _make(self, order: Order) -> Dictionary:
        warm = None if order.warm is None else self.dictionary(order.warm)
        return order.make(self.sites[order.site], self.seed, warm)


def _enough(n_tokens: int) -> int | None:
    """Returns how many tokens to take: all of the text, unless reading that would take longer than all the rest."""
    return None if n_tokens > READ_IN_PART else n_tokens + n_tokens // 20 + 1_024


def mlp(layer: int) -> str:
    """Returns the bench's name for an MLP."""
    return f"mlp {layer}"


def residual(layer: int) -> str:
    """Returns the bench's name for the residual stream after a layer."""
    return f"residual {layer}"
