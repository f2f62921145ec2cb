"""Recipes of sparsedict. Rates are relative to `sparsedict.training.default_lr`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import sparsedict as sd
from benchmarks.quality._data import Data, Source
from benchmarks.quality._task import Kind, Task, Trained
from sparsedict.latents import Support
from sparsedict.sites import Neurons
from sparsedict.training import LazyAdam, RelativeLR


class BilinearTranscoder(sd.Dictionary):
    """A transcoder whose pre-activations are a product of two affine maps. The second starts as the constant 1."""

    reads = "inputs"
    writes = "outputs"

    def __init__(self, d_in: int, d_out: int, n_latents: int, **parts: Any) -> None:
        super().__init__(d_in, d_out, n_latents, **parts)
        self.gate = nn.Parameter(torch.zeros(n_latents, d_in))
        self.gate_bias = nn.Parameter(torch.ones(n_latents))

    def pre_activations(self, x: Tensor) -> Tensor:
        return (x @ self.encoder.T + self.encoder_bias) * (x @ self.gate.T + self.gate_bias)

    def pre_activations_at(self, x: Tensor, support: Support, known: Tensor | None = None) -> Tensor:
        values = sd.kernels.affine_at(x, self.encoder, self.encoder_bias, support)
        return values * sd.kernels.affine_at(x, self.gate, self.gate_bias, support)

    @property
    def per_latent(self) -> frozenset[str]:
        return super().per_latent | {"gate", "gate_bias"}


@dataclass(frozen=True)
class Recipe:
    """Parts of a dictionary and options of `fit`.

    Attributes:
        activation: A function from k to the activation.
        options: Other options of `fit`.
        batch_size: Tokens per step; ``None`` for those of the task.
        transcoder: Class of transcoders, or a partial of one.
        transcoder_options: Options of `fit` for transcoders, in addition.
        from_neurons: Whether the first latents of a transcoder are the MLP's neurons.
        kinds: Kinds of dictionaries that use the recipe.
    """

    activation: Callable[[int], sd.Activation]
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    transcoder: Callable[..., sd.Dictionary] = sd.Transcoder
    transcoder_options: Mapping[str, Any] = field(default_factory=dict)
    from_neurons: bool = False
    kinds: tuple[Kind, ...] = ("autoencoder", "transcoder")

    @property
    def packages(self) -> tuple[str, ...]:
        return ("sparsedict",)

    def can_train(self, kind: Kind, source: Source) -> bool:
        return kind in self.kinds and not (self.from_neurons and source == "synthetic")

    def train(self, task: Task, data: Data) -> Trained:
        dictionary = self._make(task, data)
        inputs, targets = data.pair(task.kind)
        options = {**self.options, **(self.transcoder_options if task.kind == "transcoder" else {})}
        lr = options.pop("lr", None)
        sd.fit(
            dictionary,
            targets if task.kind == "autoencoder" else (inputs, targets),
            n_tokens=task.n_tokens,
            lr=RelativeLR(task.lr_factor * sd.Trainee(dictionary, lr=lr).peak_lr),
            batch_size=self.batch_size or task.batch_size,
            seed=task.seed,
            progress=False,
            **options,
        )
        dictionary.eval()
        return Trained(dictionary.encode, dictionary.reconstruct, dictionary.decoder.detach())

    def _make(self, task: Task, data: Data) -> sd.Dictionary:
        inputs, targets = data.pair(task.kind)
        parts: dict[str, Any] = {
            "activation": self.activation(task.k),
            "decoder_norm": sd.UnitNorm(),
            "generator": torch.Generator().manual_seed(task.seed),
        }
        if task.kind == "autoencoder":
            return sd.SparseAutoencoder(targets.shape[1], task.n_latents, **parts)
        transcoder = self.transcoder(inputs.shape[1], targets.shape[1], task.n_latents, **parts)
        if self.from_neurons:
            assert isinstance(transcoder, sd.Transcoder)
            transcoder.initialise_from_neurons_(_scaled_neurons(data), inputs[:16384], targets[:16384])
        return transcoder


def _scaled_neurons(data: Data) -> Neurons:
    """Returns the neurons of the MLP in the units of the stored activations."""
    assert data.site is not None  # the synthetic features have no neurons
    own, (read, written) = data.site.neurons, data.scales
    gate = None if own.gate is None else own.gate * read
    biases = {"encoder_bias": own.encoder_bias, "decoder_bias": own.decoder_bias / written}
    return Neurons(
        own.encoder * read, own.decoder / written, own.activation, gate=gate, gate_bias=own.gate_bias, **biases
    )


RESAMPLE = sd.Resample(every=25, dead_after=50_000, until=0.75, n_inputs=8192)
"""As published; the recipe of ``sparsedict train`` has decoder rows from errors."""
AUXK = sd.AuxK(dead_after=50_000)
STRAIGHT = sd.AuxK(dead_after=50_000, coefficient=1 / 4, slope=1.0)
LAZY = {"optimizer": LazyAdam}
HOOKS = {"step_hooks": [RESAMPLE]}
CENTRED = partial(sd.Transcoder, input_norm=sd.InputCentre())
OPTIONS = {kind: dict(recipe.options) for kind, recipe in sd.studies.recipes().items()}
DEFAULT = OPTIONS["autoencoder"]
DIFFERENT = {name: OPTIONS["distiller"][name] for name in ("lr", "optimizer")}
TRAIN = partial(Recipe, transcoder=CENTRED, transcoder_options=DIFFERENT)
"""A recipe like that of ``sparsedict train``, from its activation and options."""
ANNEAL_K = DEFAULT["step_hooks"][-1]
ONLY_TRANSCODERS: tuple[Kind, ...] = ("transcoder",)

SMALL = {"step_hooks": [replace(RESAMPLE, every=50)]}
SMALL_DEFAULT = [replace(DEFAULT["step_hooks"][0], every=50), ANNEAL_K]

CONTENDERS: dict[str, Recipe] = {
    "sparsedict train": TRAIN(sd.BatchTopK, DEFAULT),
    "sparsedict train, topk": TRAIN(sd.TopK, DEFAULT),
    "sparsedict train, batches of 512": TRAIN(sd.BatchTopK, DEFAULT | {"step_hooks": SMALL_DEFAULT}, batch_size=512),
    "sparsedict train, beta_2 of 0.999, decoder rows from targets": TRAIN(
        sd.BatchTopK, DEFAULT | {"step_hooks": [RESAMPLE, ANNEAL_K]}, transcoder_options=DIFFERENT | LAZY
    ),
    "sparsedict train, Adam": TRAIN(
        sd.BatchTopK, DEFAULT | {"optimizer": None}, transcoder_options=DIFFERENT | {"optimizer": None}
    ),
    "sparsedict train, not centred": TRAIN(sd.BatchTopK, DEFAULT, transcoder=sd.Transcoder, kinds=ONLY_TRANSCODERS),
    "sparsedict train, constant k": TRAIN(sd.BatchTopK, DEFAULT | {"step_hooks": DEFAULT["step_hooks"][:1]}),
    "sparsedict train, no AuxK": TRAIN(sd.BatchTopK, DEFAULT | {"penalties": ()}),
    "sparsedict train, no Resample": TRAIN(sd.BatchTopK, DEFAULT | {"step_hooks": [ANNEAL_K]}),
    "sparsedict train, cosine": TRAIN(
        sd.BatchTopK, {name: value for name, value in DEFAULT.items() if name != "schedule"}
    ),
    "sparsedict train, neurons": TRAIN(sd.BatchTopK, DEFAULT, from_neurons=True, kinds=ONLY_TRANSCODERS),
    "sparsedict train, skip": TRAIN(
        sd.BatchTopK, DEFAULT, transcoder=partial(CENTRED, skip=True), kinds=ONLY_TRANSCODERS
    ),
    "sparsedict train, skip, no Resample": TRAIN(
        sd.BatchTopK,
        DEFAULT | {"step_hooks": [ANNEAL_K]},
        transcoder=partial(CENTRED, skip=True),
        kinds=ONLY_TRANSCODERS,
    ),
    "sparsedict train, bilinear": TRAIN(
        sd.BatchTopK, DEFAULT | {"step_hooks": [ANNEAL_K]}, transcoder=BilinearTranscoder, kinds=ONLY_TRANSCODERS
    ),
    "BatchTopK, LazyAdam": Recipe(sd.BatchTopK, LAZY | HOOKS),
    "BatchTopK, LazyAdam, batches of 512": Recipe(sd.BatchTopK, LAZY | SMALL, batch_size=512),
    "BatchTopK, Adam": Recipe(sd.BatchTopK, HOOKS),
    "TopK, LazyAdam": Recipe(sd.TopK, LAZY | HOOKS),
    "TopK, Adam": Recipe(sd.TopK, HOOKS),
    "BatchTopK, LazyAdam, no revival": Recipe(sd.BatchTopK, LAZY),
    "BatchTopK, LazyAdam, AuxK": Recipe(sd.BatchTopK, LAZY | {"penalties": [AUXK]}),
    "BatchTopK, LazyAdam, Resample and AuxK": Recipe(sd.BatchTopK, LAZY | HOOKS | {"penalties": [AUXK]}),
    "BatchTopK, LazyAdam, straight-through AuxK": Recipe(sd.BatchTopK, LAZY | {"penalties": [STRAIGHT]}),
    "BatchTopK, LazyAdam, Resample and straight-through AuxK": Recipe(
        sd.BatchTopK, LAZY | HOOKS | {"penalties": [STRAIGHT]}
    ),
    "TopK, Adam, AuxK": Recipe(sd.TopK, {"penalties": [AUXK]}),
    "TopK, Adam, straight-through AuxK": Recipe(sd.TopK, {"penalties": [STRAIGHT]}),
}
