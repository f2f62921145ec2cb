from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.forward_pass import ForwardPass


class Upkeep(ABC):
    """What is done to a dictionary between training steps, besides the optimiser."""

    @abstractmethod
    def __call__(self, passed: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        """Changes ``passed.dictionary`` in place, after the step that ``passed`` describes.

        Gradients are those of the step; clone what is to be kept, for the next step's may lie in the same memory.
        """

    def check(self, dictionary: Dictionary) -> None:
        """Raises ``ValueError`` where this upkeep can't serve the dictionary."""


@dataclass(frozen=True)
class Resample(Upkeep):
    """Points silent latents at inputs that are badly reconstructed, every so many steps.

    For a silent latent a token is drawn with probability proportional to its squared error. The latent's encoder row
    becomes the token's input less the mean input (a fifth of the mean norm of the live rows), its bias what centres
    it, its decoder row the token's error, and the optimiser forgets it.

    Args:
        every: Steps from one resampling to the next.
        idle_tokens: A latent is silent after this many tokens without firing.
        until: Steps after which none is resampled, for a latent takes some time to learn its part. ``None`` goes on to
            the end.
        seed: Seed of the draw.

    Source: Bricken et al., "Towards Monosemanticity", 2023. There inputs lie around zero; where they don't, a row that
    points at one of them fires on all.
    """

    every: int
    idle_tokens: int = 500_000
    until: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        checks.set_at_least(self, "every", 1)
        checks.set_at_least(self, "idle_tokens", 1)
        if self.until is not None:
            checks.set_at_least(self, "until", 1)
        checks.set_at_least(self, "seed", 0)

    def check(self, dictionary: Dictionary) -> None:
        if type(dictionary).encoder_inputs is Dictionary.encoder_inputs:
            raise ValueError(
                f"Resample points encoder rows at inputs, but {type(dictionary).__name__} has no affine encoder. "
                "Use sd.AuxK() among the penalties instead."
            )
        for name in ("encoder", "encoder_bias", "decoder"):
            if not getattr(dictionary, name).requires_grad:
                raise ValueError(
                    f"Resample writes encoder rows, their biases and decoder rows, but `{name}` is frozen "
                    "(requires_grad=False). Use sd.AuxK() among the penalties instead."
                )

    @torch.no_grad()
    def __call__(self, passed: ForwardPass, optimizer: torch.optim.Optimizer) -> None:
        if (passed.step + 1) % self.every or (self.until is not None and passed.step >= self.until):
            return
        dictionary = passed.dictionary
        silent = (passed.idle >= self.idle_tokens).nonzero().flatten()
        if not len(silent):
            return
        errors = passed.targets - passed.reconstruction
        chances = errors.square().sum(-1).float()
        # Nothing to draw where all is reconstructed; a loss that isn't finite is the record's to report.
        if not (chances.isfinite().all() and chances.any()):
            return
        generator = torch.Generator(errors.device).manual_seed(self.seed + passed.step)
        drawn = torch.multinomial(chances, len(silent), replacement=True, generator=generator)
        inputs = dictionary.encoder_inputs(passed.inputs)
        assert inputs is not None  # `check` refused kinds without an affine encoder
        mean = inputs.mean(0)
        live = passed.idle < self.idle_tokens
        scale = dictionary.encoder[live].norm(dim=-1).mean() / 5 if bool(live.any()) else torch.ones(())
        rows = torch.nn.functional.normalize(inputs[drawn] - mean, dim=-1) * scale.to(inputs)
        dictionary.encoder[silent] = rows
        dictionary.encoder_bias[silent] = -(rows @ mean)
        dictionary.decoder[silent] = torch.nn.functional.normalize(errors[drawn], dim=-1)
        dictionary.decoder_norm.constrain_(dictionary.decoder)
        passed.idle[silent] = 0
        _forget(optimizer, (dictionary.encoder, dictionary.encoder_bias, dictionary.decoder), silent)


def _forget(optimizer: torch.optim.Optimizer, parameters: tuple[Tensor, ...], latents: Tensor) -> None:
    for parameter in parameters:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[latents] = 0
