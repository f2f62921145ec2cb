"""The interface of dictionaries, and the carrier of an evaluated batch (`ForwardPass`)."""

from __future__ import annotations

import copy
import os
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sparsedict import checks, hub
from sparsedict.activations import Activation, State
from sparsedict.batches import Activations, Points
from sparsedict.dictionaries._description import described
from sparsedict.dictionaries._encode import encode_rows
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder, check_part, overrides
from sparsedict.dictionaries._exported import Exported
from sparsedict.dictionaries._module import Reconstructing
from sparsedict.dictionaries._representation import summary
from sparsedict.dictionaries._scales import Scales, gain, spread
from sparsedict.dictionaries._start import start_from
from sparsedict.dictionaries._state import ActivationState, initial_state
from sparsedict.display import Displayed
from sparsedict.kernels import StepContext
from sparsedict.latents import Encoding, SparseLatents, Support, firing_counts, per_entry
from sparsedict.norms import DecoderNorm
from sparsedict.storage import Description, check_finite, write_dictionary
from sparsedict.types import DictionaryOutput

STEPS = ("encoder_inputs", "pre_activations", "decode", "reconstruct")
"""The methods from input to output that kinds override."""


class Dictionary(EncoderDecoder, ABC):
    """An encoder, an activation and a decoder under a norm constraint.

    A kind states ``reads`` and ``writes``, and overrides the steps of :class:`EncoderDecoder` that differ from an
    affine encoder and a linear decoder. A new dictionary is in evaluation mode; ``fit`` switches it to training mode.

    Attributes:
        reads: The points whose activations it takes: ``"inputs"``, ``"outputs"`` or ``"neurons"`` of one site, or a
            tuple of points of several sites, such as ``("0.inputs", "1.inputs")``, which are concatenated.
        writes: The points whose activations it reproduces.
        trained_on: Where it was trained, as training noted it; saved with it, so what it holds must fit into JSON.
    """

    reads: Points
    writes: Points

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(overrides(cls, step) for step in STEPS) and not overrides(cls, "exported"):
            # The inherited form is that of the base's steps.
            cls.exported = Dictionary.exported

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_latents: int,
        *,
        activation: Activation,
        decoder_norm: DecoderNorm,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if type(self) is Dictionary:
            raise TypeError(
                "`Dictionary` is abstract: use a kind such as `sd.SparseDistiller`, or derive a class that states "
                "`reads` and `writes`."
            )
        options = {"device": device, "dtype": dtype, "generator": generator}
        super().__init__(d_in, d_out, n_latents, activation=activation, decoder_norm=decoder_norm, **options)
        self.trained_on: dict[str, Any] = {}
        self.eval()

    def initialise_(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> None:
        """Starts the weights of a new dictionary from a sample of its data; `fit` does so with its first batches.

        Each latent is pointed at one token, drawn by ``start_seed`` without replacement. Its decoder row points at the
        token's target, less the mean target; its encoder row at the token's input, less the mean input and whitened,
        short and with a bias that centres it. The decoder bias becomes the mean target. Every latent thus starts near
        something that occurs. Parameters with ``requires_grad=False`` stay as they are.

        Args:
            inputs: What the dictionary reads; best several times as many tokens as there are latents, or the draw has
                little to choose from.
            targets: What it should give.
        """
        start_from(self, inputs, targets / gain(self, inputs, spread(targets)))

    def scales(self, inputs: Float[Tensor, "n_tokens d_in"], targets: Float[Tensor, "n_tokens d_out"]) -> Scales:
        """Measures how large activations are, and with them latents and what the encoder reads.

        Args:
            inputs: What the dictionary reads.
            targets: What it should give.
        """
        return Scales.measured(self, inputs, targets)

    def parameter_units(self, scales: Scales) -> dict[str, float]:
        """Returns by parameter's name the unit that it is measured in, given how large activations are.

        With ``fit``'s default learning rate, a step of Adam moves a parameter by about the rate times its unit.
        Parameters that aren't named have the unit 1. Override it in a kind that has parameters of its own.
        """
        own = {
            "encoder": scales.latents / scales.encoded,
            "encoder_bias": scales.latents,
            "decoder": 1.0,
            "decoder_bias": scales.latents,
        }
        kept = self.activation.units(scales.latents)
        return own | {f"activation_state.{name}": unit for name, unit in kept.items()}

    @property
    def is_untouched(self) -> bool:
        """Whether the weights are those that the constructor drew, not trained, loaded, edited or frozen."""
        return not self.trained_on and self.has_drawn_weights()

    def exported(self) -> Exported:
        """Returns plain weights that compute the same, as the writers in `sd.formats` store them.

        The default serves kinds that override none of the steps. Override it in a kind that plain weights can express.

        Raises:
            TypeError: If the kind overrides a step and not this method.
        """
        changed = [step for step in STEPS if getattr(type(self), step) is not getattr(EncoderDecoder, step)]
        if changed:
            raise TypeError(
                f"`dictionary` must have an exact form in plain weights, but {type(self).__name__} overrides "
                f"`{'`, `'.join(changed)}` and not `exported`. Override `exported` if plain weights compute the same."
            )
        return self._exported()

    def _exported(self, **others: Any) -> Exported:
        """Returns the form with the weights of the base class, where ``others`` doesn't give them."""
        encoder, encoder_bias, decoder, decoder_bias = (weight.detach() for weight in self._weights())
        parts = {
            "activation": self.activation,
            "activation_state": {name: value.detach() for name, value in self.activation_state.state_dict().items()},
            "is_distiller": self.reads != self.writes,
        }
        weights = {"encoder_bias": encoder_bias, "decoder": decoder, "decoder_bias": decoder_bias}
        return Exported(encoder, **{**weights, **parts, **others})

    def folded(self) -> Dictionary:
        """Returns an equal dictionary that reads activations as they are: its normalisation lies in the weights.

        Latents and outputs stay as they were, to rounding. A dictionary without normalisation gives a copy.

        Raises:
            ValueError: If the normalisation depends on the input, so that no weights could stand for it.
        """
        return copy.deepcopy(self)

    def with_activation(
        self, activation: Activation, activation_state: Mapping[str, Tensor | float] | None = None
    ) -> Dictionary:
        """Returns a copy with the same weights and another activation.

        The latents change with it: :func:`sparsedict.calibrate_threshold` finds a threshold that keeps L0.

        Args:
            activation: How pre-activations become latents.
            activation_state: What it keeps, by name, such as ``{"threshold": 0.5}`` of a BatchTopK: tensors, or one
                number for all latents; its initial state where left out.

        Raises:
            ValueError: If the activation can't serve this number of latents, or the state isn't its own.
        """
        check_part("activation", activation, Activation, "sd.TopK(k=32)")
        activation.check(self.n_latents)
        like = self.encoder.detach()
        state = initial_state(activation, self.n_latents, like, activation_state or {})
        made = copy.deepcopy(self)
        made.activation = activation
        made.activation_state = ActivationState(activation, self.n_latents, like.device, like.dtype)
        made.activation_state.load_state_dict(state)
        return made

    def arguments(self) -> dict[str, Any]:
        """Returns the constructor's arguments, except activation and norm, so that a dictionary can be made again."""
        return {"d_in": self.d_in, "d_out": self.d_out, "n_latents": self.n_latents}

    def select(self, batch: Activations) -> tuple[Float[Tensor, "n_tokens d_in"], Float[Tensor, "n_tokens d_out"]]:
        """Returns the activations that this dictionary reads, and those that it should reproduce.

        Raises:
            ValueError: If the batch lacks a point; the message lists the points that there are.
        """
        return batch.of(self.reads), batch.of(self.writes)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Returns all latents.

        Args:
            x: Activations with any leading dimensions, of any floating-point type.

        Raises:
            TypeError: If ``x`` holds tokens rather than activations.
            ValueError: If its width isn't ``d_in``.
        """
        flat, batch_shape = self._rows(x)
        latents = encode_rows(self, flat).latents()
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        return dense.view(*batch_shape, self.n_latents)

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> SparseLatents:
        """Returns the active latents only. ``encode(x)`` equals ``encode_sparse(x).to_dense()``."""
        flat, batch_shape = self._rows(x)
        encoding = encode_rows(self, flat, stored=True)
        return SparseLatents(encoding.values.reshape(-1), encoding.stored(), batch_shape)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> DictionaryOutput:
        """Returns latents and reconstruction."""
        flat, batch_shape = self._rows(x)
        latents = encode_rows(self, flat).latents()
        reconstruction = self.reconstruct(latents, flat)
        dense = latents.to_dense() if isinstance(latents, SparseLatents) else latents
        return DictionaryOutput(dense.view(*batch_shape, self.n_latents), reconstruction.view(*batch_shape, self.d_out))

    def as_module(self) -> nn.Module:
        """Returns a module with ``forward(x) -> reconstruction``, to put in a model in place of an MLP.

        The module has the dictionary's parameters, not copies, takes any leading dimensions and returns the type that
        it was given. `Site.replaced` puts a dictionary in place for a while; a module stays there, and it acts on all
        positions. A dictionary that reads an MLP's outputs belongs after the MLP.

        Example:
            >>> import torch
            >>> import sparsedict as sd
            >>> transcoder = sd.SparseDistiller(4, 4, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
            >>> transcoder.as_module()(torch.randn(2, 3, 4)).shape
            torch.Size([2, 3, 4])
        """
        return Reconstructing(self)

    def _rows(self, x: Tensor) -> tuple[Tensor, torch.Size]:
        """Returns activations as rows in the weights' type, and the leading dimensions they came in."""
        checks.activations("x", x, self.d_in)
        return x.reshape(-1, self.d_in).to(self.encoder.dtype), x.shape[:-1]

    def forward_pass(
        self,
        inputs: Float[Tensor, "n_tokens d_in"],
        targets: Float[Tensor, "n_tokens d_out"],
        *,
        step: int = 0,
        tokens_since_fired: Int[Tensor, " n_latents"] | None = None,
        batch: Activations | None = None,
        context: StepContext | None = None,
    ) -> ForwardPass:
        """Evaluates a batch for training: the carrier that losses, penalties and step hooks receive.

        Args:
            inputs: What the dictionary reads, one row for each token.
            targets: What it should give for each of them.
            step: Optimiser steps done before.
            tokens_since_fired: For each latent, tokens seen since it last fired; zeros where left out.
            batch: All activations of these tokens, for losses that need more than inputs and targets.
            context: Memory to reuse and how entries may be selected; ``fit`` gives that of its step. Where left out,
                every array is new.

        Raises:
            TypeError: If inputs or targets aren't floating-point tensors.
            ValueError: If their widths aren't the dictionary's, or they don't hold the same tokens, at least one.
        """
        checks.activations("inputs", inputs, self.d_in)
        checks.activations("targets", targets, self.d_out)
        if inputs.ndim != 2 or targets.shape[:-1] != inputs.shape[:-1] or not len(inputs):
            raise ValueError(
                "`inputs` and `targets` must be rows of the same tokens, at least one, "
                f"got shapes {tuple(inputs.shape)} and {tuple(targets.shape)}."
            )
        context = StepContext(self.training and torch.is_grad_enabled()) if context is None else context
        encoding = encode_rows(self, inputs, context)
        reconstruction = self.reconstruct(encoding.latents(), inputs)
        if tokens_since_fired is None:
            tokens_since_fired = torch.zeros(self.n_latents, dtype=torch.int64, device=inputs.device)
        return ForwardPass(
            self, inputs, targets, reconstruction, encoding, step, tokens_since_fired, batch, context=context
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the dictionary to a folder: ``dictionary.safetensors`` and ``dictionary.json``, never pickle.

        A dictionary that was saved there before is replaced as a whole: an interrupted save leaves the old one or the
        new one. Load it again by :func:`sparsedict.load`.

        Args:
            path: The folder; it is made where it doesn't exist.

        Raises:
            TypeError: If a part holds what can't be saved, such as a tensor among its fields.
            ValueError: If a weight is NaN or infinite: such a file would be refused when it is loaded.
            NotADirectoryError: If the path is a file.
        """
        check_finite(dict(self.named_parameters()), "This dictionary")
        write_dictionary(Path(path), self._description(), self.state_dict())

    def push_to_hub(
        self,
        repository: str,
        *,
        metrics: Mapping[str, Any] | hub.HasNumbers | None = None,
        figures: Mapping[str, str | os.PathLike[str] | hub.Drawn] | None = None,
        license: str | None = None,
        private: bool = False,
        message: str | None = None,
    ) -> str:
        """Uploads the dictionary with a model card to the Hugging Face hub, in one commit.

        The card says what it is, where it was trained and how good it is. Load it again by
        ``sd.load("hf://owner/repository")``. Needs ``huggingface_hub`` (the extra ``hf``), and its login.

        Args:
            repository: ``"owner/repository"``, made where it doesn't exist; ``"owner/repository@branch/path"`` for a
                branch, or a folder among others.
            metrics: Numbers for the card: those of ``sd.evaluate``, or any by name.
            figures: Pictures for the card by their captions: files, or matplotlib figures.
            license: Its identifier on the hub, such as ``"mit"``.
            private: Whether a repository that is made now is private.
            message: Of the commit.

        Returns:
            The commit's page.

        Raises:
            ImportError: If ``huggingface_hub`` isn't installed.
            PermissionError: If the repository may not be written.
            ConnectionError: If the hub can't be reached.
        """
        card = {"metrics": metrics, "figures": figures, "license": license}
        return hub.upload(self.save, self._description(), repository, **card, private=private, message=message)

    def _description(self) -> Description:
        parts = {"activation": self.activation, "decoder_norm": self.decoder_norm}
        return described(type(self), self.arguments(), parts, self._widths(), self.encoder.dtype, self.trained_on)

    def _widths(self) -> dict[str, int]:
        return {"d_in": self.d_in, "d_out": self.d_out, "n_latents": self.n_latents}

    def __repr__(self) -> str:
        # `extra_repr` shows what the activation keeps.
        if set(self._modules) == {"activation_state"}:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n".join(line for line in super().__repr__().split("\n") if "(activation_state): " not in line)

    def extra_repr(self) -> str:
        parts = {"activation": self.activation, "decoder_norm": self.decoder_norm}
        return summary(self._widths() | parts | self.arguments(), self.activation_state.state_dict())


Rows = tuple[Tensor, Tensor]
"""Inputs ``[n_tokens, d_in]`` and targets ``[n_tokens, d_out]``."""


@dataclass(frozen=True, eq=False, repr=False)
class ForwardPass(Displayed):
    """Everything evaluated in one training step.

    Entries are either the stored ones, ``[n_entries]``, or all, ``[n_tokens, n_latents]``: write elementwise
    formulas, align what there is per latent by :meth:`aligned`, sum, divide by :attr:`n_tokens`.

    Attributes:
        dictionary: The dictionary in training.
        inputs: What it read, ``[n_tokens, d_in]``.
        targets: What it should give, ``[n_tokens, d_out]``.
        reconstruction: What it gave, ``[n_tokens, d_out]``.
        encoding: Pre-activations and latents on the support.
        step: Optimiser steps done before this one.
        tokens_since_fired: For each latent, tokens seen since it last fired, ``[n_latents]``.
        batch: All activations of these tokens, with their ids and positions where these are known; in training those
            of the data, on its device. ``None`` where the pass was made of two tensors.
        upcoming: In training, gives the inputs and targets of the next batches, see :meth:`sample`.
        context: Memory that the step reuses. A penalty that selects entries itself passes ``context.workspace`` to
            :func:`sparsedict.kernels.select` and to :meth:`Support.with_memory`, so that it reuses that memory too.
    """

    dictionary: Dictionary
    inputs: Float[Tensor, "n_tokens d_in"]
    targets: Float[Tensor, "n_tokens d_out"]
    reconstruction: Float[Tensor, "n_tokens d_out"]
    encoding: Encoding
    step: int
    tokens_since_fired: Int[Tensor, " n_latents"]
    batch: Activations | None = None
    upcoming: Callable[[int], Iterator[Rows]] | None = None
    context: StepContext = field(default=StepContext(), repr=False)

    def sample(self, n_tokens: int) -> Iterator[Rows]:
        """Yields inputs and targets of the batches that training goes on with, without taking them from it.

        Args:
            n_tokens: Where to stop, rounded up to whole batches; the end of the run comes first. These tokens are held
                in memory until they have been trained on. Outside of training this pass's own rows are all there is.
        """
        return iter([(self.inputs, self.targets)]) if self.upcoming is None else self.upcoming(n_tokens)

    @property
    def n_tokens(self) -> int:
        return len(self.inputs)

    @property
    def activation(self) -> Activation:
        return self.dictionary.activation

    @property
    def values(self) -> Float[Tensor, "*entries"]:
        """Latents of the entries, differentiable."""
        return self.encoding.values

    @property
    def pre_activations(self) -> Float[Tensor, "*entries"]:
        """Pre-activations of the entries, differentiable."""
        return self.encoding.pre_activations

    @property
    def support(self) -> Support | None:
        """Which entries are stored; ``None`` where all are."""
        return self.encoding.support

    @property
    def state(self) -> State:
        """What the activation keeps, aligned with the entries."""
        return self.dictionary.activation_state.entries(None if self.support is None else self.support.latents)

    @cached_property
    def decoder_norms(self) -> Float[Tensor, " n_latents"]:
        """Norm of each decoder row, differentiable."""
        return torch.linalg.vector_norm(self.dictionary.decoder, dim=-1)

    def aligned(self, vector: Shaped[Tensor, " n_latents"]) -> Shaped[Tensor, "*entries"]:
        """Returns a value per latent, aligned with the entries."""
        return per_entry(vector, None if self.support is None else self.support.latents)

    def firing_counts(self) -> Int[Tensor, " n_latents"]:
        """Returns on how many tokens each latent fired."""
        return firing_counts(self.encoding.latents())
