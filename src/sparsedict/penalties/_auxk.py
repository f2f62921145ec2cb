from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.forward_pass import ForwardPass
from sparsedict.kernels import affine_at, matmul, select
from sparsedict.latents import SparseLatents, Support
from sparsedict.penalties._penalty import Penalty
from sparsedict.selections import Largest

if TYPE_CHECKING:
    from sparsedict.dictionaries import Dictionary


@dataclass(frozen=True)
class AuxK(Penalty):
    """Lets latents that have long been silent model what the others left over, so that they come back to life.

    The ``k`` largest pre-activations of silent latents, after ReLU, are decoded to predict the error
    ``target - reconstruction``; the penalty is ``coefficient`` times the squared error of that prediction, summed
    over ``d_out`` and mean over tokens. Its gradient reaches encoder, encoder bias and decoder of the silent latents
    and nothing else.

    Args:
        k: Silent latents used on a token; ``None`` means half the width of the output.
        idle_tokens: A latent is silent after this many tokens without firing.
        coefficient: Weight of the penalty.

    Source: Gao et al., "Scaling and evaluating sparse autoencoders", 2024.
    """

    k: int | None = None
    idle_tokens: int = 200_000
    coefficient: float = 1 / 32

    def __post_init__(self) -> None:
        if self.k is not None:
            checks.set_at_least(self, "k", 1)
        checks.set_at_least(self, "idle_tokens", 1)
        checks.set_in_range(self, "coefficient", 0.0)

    def check(self, dictionary: Dictionary) -> None:
        norm = dictionary.arguments().get("input_norm")
        if norm is not None and dictionary.reads == dictionary.writes:
            raise ValueError(
                f"AuxK compares what silent latents decode with the error of the output, but {norm} puts the output "
                "into another scale than what is decoded. Leave AuxK out, or normalise activations before training."
            )

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        dictionary = passed.dictionary
        silent = passed.idle >= self.idle_tokens
        missing = (passed.targets - passed.reconstruction).detach()
        # Asking whether there is any makes an accelerator wait; the CPU knows.
        if silent.device.type == "cpu" and not bool(silent.any()):
            return dictionary.encoder_bias[0] * 0.0
        values, support = self._largest_silent(passed, silent)
        # Latents that aren't silent can fill a row that has too few silent ones: they count as zero.
        latents = SparseLatents(values.relu() * silent[support.latents], support, torch.Size((passed.n_tokens,)))
        error = (missing - matmul(latents, dictionary.decoder)).square().sum(-1).mean()
        return torch.where(silent.any(), error * self.coefficient, torch.zeros_like(error))

    def _largest_silent(self, passed: ForwardPass, silent: Bool[Tensor, " n_latents"]) -> tuple[Tensor, Support]:
        """Returns the largest pre-activations of silent latents, differentiable in encoder and encoder bias."""
        dictionary = passed.dictionary
        k = min(self.k or dictionary.d_out // 2 or 1, dictionary.n_latents)
        inputs = dictionary.encoder_inputs(passed.inputs)
        if inputs is None:
            pre = dictionary.pre_activations(passed.inputs)
            support = Largest(k).support(pre.detach().masked_fill(~silent, -torch.inf))
            return pre[support.tokens, support.latents], support
        # Only the silent latents may move: the offset that all latents share stays out of it.
        inputs = inputs.detach()
        encoder, bias = dictionary.encoder, dictionary.encoder_bias
        if silent.device.type == "cpu":
            among = silent.nonzero().flatten()
            picked = select(inputs, encoder[among].detach(), bias[among].detach(), Largest(min(k, len(among))))
        else:
            among = None
            picked = select(inputs, encoder, bias.masked_fill(~silent, -torch.inf), Largest(k))
        assert picked is not None  # the rule has no limit at which it gives up
        support, known = picked
        if among is not None:
            support = Support(among[support.latents], support.offsets, dictionary.n_latents)
        return affine_at(inputs, encoder, bias, support, known), support
