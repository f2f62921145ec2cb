"""`PreActivation`, a penalty on pre-activations below their threshold, which revives dead latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.penalties._penalty import Penalty, set_coefficient


@dataclass(frozen=True)
class PreActivation(Penalty):
    r"""Raises pre-activations that lie below their threshold, so that dead latents fire again.

    .. math:: c \, \frac{1}{n} \sum_t \sum_i \max(\theta_i - p_{ti}, 0) \, |d_i|

    :math:`\theta_i` is the threshold and :math:`|d_i|` the norm of the decoder row of latent :math:`i`. The gradient
    reaches thresholds, encoder and encoder bias of every latent in the sum, also far below the threshold, where the
    jump of JumpReLU has no gradient.

    Args:
        coefficient: Weight, :math:`c`; 3e-6 in the source. It is absolute, in units of the data: for data multiplied
            by ``s``, the same balance with the squared error needs ``s`` times the coefficient.
        dead_after: The sum is over latents that haven't fired for this number of tokens, and costs only their products.
            ``None`` sums over all latents, as in the source, which costs three dense products in each step.

    Source: Conerly et al., "Dictionary Learning Optimization Techniques", Circuits Updates, January 2025. SAELens
    restricts the sum to dead latents.

    Example:
        >>> import sparsedict as sd
        >>> activation = sd.JumpReLU(to_inputs=True)
        >>> penalties = [sd.WarmUp(sd.NormWeighted(sd.Tanh(0.2)), n_steps=1000), sd.PreActivation(3e-6)]
    """

    coefficient: float
    dead_after: int | None = None

    def __post_init__(self) -> None:
        set_coefficient(self)
        if self.dead_after is not None:
            checks.set_at_least(self, "dead_after", 1)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        dictionary = out.dictionary
        state = dictionary.activation_state.entries()
        thresholds = out.activation.thresholds(state)
        assert thresholds is not None  # `check`
        thresholds = thresholds.expand(dictionary.n_latents)
        dead = None if self.dead_after is None else out.tokens_since_fired >= self.dead_after
        norms = out.decoder_norms
        if dead is None or dead.device.type != "cpu" or not dictionary.has_affine_encoder:
            missing = (thresholds - dictionary.pre_activations(out.inputs)).relu() * norms
            total = missing.sum() if dead is None else (missing * dead).sum()
        else:
            total = self._of_dead(out, dead, thresholds, norms)
        return out.total(total) * (self.coefficient / out.n_tokens)

    def _of_dead(
        self, out: ForwardPass, dead: Bool[Tensor, " n_latents"], thresholds: Tensor, norms: Tensor
    ) -> Float[Tensor, ""]:
        """Returns the sum over dead latents. Only their rows are multiplied."""
        parts = out.dictionary.affine_parts(out.dictionary.encoder_inputs(out.inputs))
        total = thresholds.sum() * 0.0
        for own, threshold, norm, (inputs, rows, bias) in zip(
            *(vector.split([len(part.rows) for part in parts]) for vector in (dead, thresholds, norms)),
            parts,
            strict=True,
        ):
            chosen = own.nonzero().flatten()
            if len(chosen):
                pre = torch.addmm(bias[chosen], inputs, rows[chosen].T)
                total = total + ((threshold[chosen] - pre).relu() * norm[chosen]).sum()
        return total

    def check(self, dictionary: Dictionary) -> None:
        if type(dictionary.activation).thresholds is Activation.thresholds:
            raise ValueError(
                f"`activation` must have thresholds (`Activation.thresholds`) for PreActivation, got "
                f"{dictionary.activation}. Use JumpReLU(), or the penalty sd.AuxK() with this activation."
            )
