from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.forward_pass import ForwardPass
from sparsedict.kernels import affine_at, matmul
from sparsedict.latents import SparseLatents, Support
from sparsedict.penalties._penalty import Penalty


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
            checks.at_least("k", self.k, 1)
        checks.at_least("idle_tokens", self.idle_tokens, 1)
        checks.in_range("coefficient", self.coefficient, 0.0)

    def __call__(self, passed: ForwardPass) -> Float[Tensor, ""]:
        dictionary = passed.dictionary
        silent = passed.idle >= self.idle_tokens
        missing = (passed.targets - passed.reconstruction).detach()
        # Asking whether there is any makes an accelerator wait; the CPU knows.
        if silent.device.type == "cpu" and not bool(silent.any()):
            return dictionary.encoder_bias[0] * 0.0
        support = self._candidates(passed, silent)
        # Latents that aren't silent can fill a row that has too few silent ones: they count as zero.
        values = self._pre_activations(passed, support).relu() * silent[support.latents]
        latents = SparseLatents(values, support, torch.Size((passed.n_tokens,)))
        error = (missing - matmul(latents, dictionary.decoder)).square().sum(-1).mean()
        return torch.where(silent.any(), error * self.coefficient, torch.zeros_like(error))

    def _candidates(self, passed: ForwardPass, silent: Bool[Tensor, " n_latents"]) -> Support:
        n_latents = passed.dictionary.n_latents
        k = self.k or passed.dictionary.d_out // 2 or 1
        pre = passed.encoding.all_pre_activations
        if silent.device.type == "cpu":
            among = silent.nonzero().flatten()
            chosen = pre[:, among].topk(min(k, len(among)), dim=-1, sorted=False).indices
            return Support.from_indices(among[chosen], n_latents)
        masked = pre.masked_fill(~silent, -torch.inf)
        return Support.from_indices(masked.topk(min(k, n_latents), dim=-1, sorted=False).indices, n_latents)

    def _pre_activations(self, passed: ForwardPass, support: Support) -> Tensor:
        dictionary = passed.dictionary
        known = passed.encoding.all_pre_activations[support.tokens, support.latents]
        inputs = dictionary.encoder_inputs(passed.inputs)
        if inputs is None:
            return dictionary.pre_activations(passed.inputs)[support.tokens, support.latents]
        # Only the silent latents may move: the offset that all latents share stays out of it.
        return affine_at(inputs.detach(), dictionary.encoder, dictionary.encoder_bias, support, known.to(inputs.dtype))
