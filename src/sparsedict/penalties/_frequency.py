"""`Frequency`, a penalty on latents that fire on many tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.penalties._counts import require_firing_gradient
from sparsedict.penalties._penalty import Penalty, set_coefficient


@dataclass(frozen=True)
class Frequency(Penalty):
    r"""Penalises latents that fire on many tokens.

    .. math:: c \sum_i \frac{f_i^2}{s}, \qquad f_i = \frac{1}{n} \sum_t H(p_{ti} - \theta_i)

    The frequency :math:`f_i` of latent :math:`i` over the batch has the gradient that the activation defines for
    firing, so the penalty requires JumpReLU or a custom activation with :meth:`Activation.firing`. It is added to a
    penalty on the number of active latents. Together with ``L0(c)``, the cost of a firing grows with the frequency:
    ``c * f * (1 + f / s)``.

    Args:
        coefficient: Weight, :math:`c`, in units of the squared error. It is absolute: for data multiplied by ``s``, the
            same balance needs ``s ** 2`` times the coefficient.
        scale: The frequency :math:`s` at which the penalty equals that of ``L0`` with the same coefficient.

    Source: Smith et al., "Negative Results for Sparse Autoencoders on Downstream Tasks", 2025,
    https://www.alignmentforum.org/posts/4uXCAJNuPKtKBsi28/negative-results-for-saes-on-downstream-tasks, which proposes
    a sparsity penalty that is quadratic in the frequency. McDougall et al., "Announcing Gemma Scope 2", 2025, reports a
    frequency penalty in addition to a quadratic L0 penalty. The formula here wasn't compared with theirs.

    Example:
        >>> import sparsedict as sd
        >>> penalties = [sd.TargetL0(32, coefficient=1.0), sd.Frequency(0.1)]
    """

    coefficient: float
    scale: float = 0.1

    def __post_init__(self) -> None:
        set_coefficient(self)
        checks.set_in_range(self, "scale", 0.0, open_low=True)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        fired = out.activation.firing(out.pre_activations, out.state)
        if out.support is None:
            counts = fired.sum(0)
        else:
            if out.support.has_padding:
                fired = fired * out.support.is_stored
            counts = torch.zeros_like(out.dictionary.encoder_bias, dtype=fired.dtype)
            counts = counts.index_add(0, out.support.latents, fired)
        frequencies = out.whole.mean(counts / out.n_tokens)
        return out.total(frequencies.square().sum()) * (self.coefficient / self.scale)

    def check(self, dictionary: Dictionary) -> None:
        require_firing_gradient(self, dictionary)
