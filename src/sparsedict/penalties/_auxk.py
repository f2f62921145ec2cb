"""`AuxK`, an auxiliary loss that trains dead latents on the remaining error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from math import ceil

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries import Dictionary, ForwardPass, entries_at
from sparsedict.kernels import Affine, Workspace, select_parts
from sparsedict.latents import SparseLatents, Support
from sparsedict.penalties._penalty import Penalty
from sparsedict.selections import Largest, LargestOfBatch


@dataclass(frozen=True)
class AuxK(Penalty):
    r"""Trains dead latents to predict the reconstruction error, so that they fire again.

    The latents :math:`z` are the ``k`` largest pre-activations of dead latents, after ReLU. With `AbsTopK` they are the
    ``k`` of largest magnitude, with their signs. Their contribution to the output predicts the reconstruction error,
    which is detached:

    .. math:: c \, \frac{1}{n} \sum_t \left| (y_t - \hat y_t)
        - (\mathrm{reconstruct}(z_t, x_t) - \mathrm{reconstruct}(0, x_t)) \right|^2

    The gradient reaches the encoder, the encoder bias and the decoder of dead latents, and parameters of
    ``reconstruct`` that scale the contributions of latents. It is zero if no latent is dead.

    The derivative of ReLU is zero where the pre-activation is negative, so a latent without a positive pre-activation
    gets no gradient. With ``slope=1.0``, the gradient passes such latents unchanged (a straight-through estimator). The
    value of the penalty is the same for every slope.

    Args:
        k: Number of dead latents per token. ``None`` is half the width of the output, and at most twice the number of
            active latents of `TopK`, `BatchTopK` and `AbsTopK`.
        dead_after: Number of tokens without firing after which a latent is dead.
        coefficient: Weight of the penalty, :math:`c`. It doesn't depend on the scale of the data, since the penalty is
            a squared error.
        slope: Factor of the gradient where ReLU is zero; 0 in the source. It has no effect with `AbsTopK`.
        idle_tokens: The former name of ``dead_after``.

    Source: Gao et al., "Scaling and evaluating sparse autoencoders", 2024, appendix A.2. Implementations differ
    from its text. OpenAI and dictionary_learning divide the penalty by the variance of the error over the batch, and
    sparsify by the variance of the targets. Here and in SAELens it has the units of the squared error. sparsify and
    SAELens multiply it by ``n_dead / k`` if fewer than ``k`` latents are dead. sparsify adds the decoder's bias to the
    contribution of dead latents, and SAELens applies no ReLU. None of these changes is made here.
    """

    k: int | None = None
    dead_after: int = 200_000
    coefficient: float = 1 / 32
    _: KW_ONLY
    slope: float = 0.0
    idle_tokens: InitVar[int | None] = None

    def __post_init__(self, idle_tokens: int | None) -> None:
        checks.renamed(self, "dead_after", "idle_tokens", idle_tokens)
        if self.k is not None:
            checks.set_at_least(self, "k", 1)
        checks.set_at_least(self, "dead_after", 1)
        checks.set_in_range(self, "coefficient", 0.0)
        checks.set_in_range(self, "slope", 0.0, 1.0)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        dictionary, n_tokens = out.dictionary, out.n_tokens
        dead = out.tokens_since_fired >= self.dead_after
        residual = (out.targets - out.reconstruction).detach()
        # Testing for dead latents synchronises with an accelerator, so it is only done on the CPU.
        has_dead = dictionary.total(dead.any().to(torch.float32)) > 0
        if dead.device.type == "cpu" and not bool(has_dead):
            return dictionary.encoder_bias[0] * 0.0
        values, support = self._largest_dead(out, dead)
        # If there are fewer than `k` dead latents, other latents fill the row. They count as zero.
        values = values if dictionary.activation.by_magnitude else self._relu(values)
        values = torch.where(support.is_stored, values, 0.0) if support.has_padding else values
        latents = SparseLatents(values * dead[support.latents], support, torch.Size((n_tokens,)))
        nothing = SparseLatents.none(n_tokens, dictionary.n_latents, values, memory=out.context.workspace)
        added = dictionary.reconstruct(latents, out.inputs) - dictionary.reconstruct(nothing, out.inputs)
        error = (residual - added).square().sum(-1).mean()
        return torch.where(has_dead, error * self.coefficient, torch.zeros_like(error))

    def _relu(self, pre: Tensor) -> Tensor:
        """Returns the positive parts. The gradient is multiplied by ``slope`` where they are zero."""
        if not self.slope:
            return pre.relu()
        # Rows with fewer than `k` dead latents contain minus infinity on an accelerator.
        negative = pre.clamp(torch.finfo(pre.dtype).min, 0.0)
        return pre.relu() + self.slope * (negative - negative.detach())

    def _largest_dead(self, out: ForwardPass, dead: Bool[Tensor, " n_latents"]) -> tuple[Tensor, Support]:
        """Returns the largest pre-activations of dead latents, differentiable in encoder and encoder bias."""
        dictionary = out.dictionary
        rule = Largest(self.k or _default_k(dictionary))
        k = min(rule.k, dictionary.n_latents)
        if not dictionary.has_affine_encoder:
            pre = dictionary.pre_activations(out.inputs)
            strength = _strength(dictionary.activation, pre).masked_fill(~dead, -torch.inf)
            support = Largest(k).support(strength).with_memory(out.context.workspace)
            known = pre[support.tokens, support.latents]
            return dictionary.pre_activations_at(out.inputs, support, known), support
        # Only dead latents are trained, so the input offset that all latents share gets no gradient.
        inputs = dictionary.encoder_inputs(out.inputs).detach()
        parts, workspace = dictionary.affine_parts(inputs), out.context.workspace
        if dictionary.activation.by_magnitude:
            with torch.no_grad():
                pre = torch.cat([torch.addmm(bias, x, rows.T) for x, rows, bias in parts], dim=-1)
            strength = _strength(dictionary.activation, pre).masked_fill(~dead, -torch.inf)
            support = Largest(k).support(strength)
            found = pre[support.tokens, support.latents], strength[support.tokens, support.latents]
            support, known = dictionary.global_selection(rule, support, *found)
        else:
            support, known = dictionary.global_selection(rule, *_select_dead(parts, dead, k, workspace))
        support = support.with_memory(workspace)
        return entries_at(parts, support, known), support


def _default_k(dictionary: Dictionary) -> int:
    """Returns the default number of dead latents per token.

    More than twice the active latents cost time without a lower error.
    """
    half = dictionary.d_out // 2 or 1
    rule = dictionary.activation.competition(dictionary.activation_state.entries(None), training=True)
    return min(half, ceil(2 * rule.k)) if isinstance(rule, Largest | LargestOfBatch) else half


def _select_dead(
    parts: Sequence[Affine], dead: Bool[Tensor, " n_latents"], k: int, workspace: Workspace | None
) -> tuple[Support, Tensor]:
    """Returns the ``k`` largest pre-activations of dead latents for each token, without gradient."""
    indices = dead.nonzero().flatten() if dead.device.type == "cpu" else None
    if indices is not None and not len(indices):
        return Support.empty(len(parts[0].inputs), dead.device, len(dead)), parts[0].inputs.new_zeros(0)
    k = k if indices is None else min(k, len(indices))
    selected = select_parts(_dead_parts(parts, dead), Largest(k), workspace=workspace)
    assert selected is not None  # the search has no limit
    support, known = selected
    if indices is not None:
        support = Support(indices[support.latents], support.offsets, len(dead))
    return support, known


@torch.no_grad()
def _dead_parts(parts: Sequence[Affine], dead: Bool[Tensor, " n_latents"]) -> list[Affine]:
    """Returns the encoder rows of dead latents; on an accelerator all rows, others with a bias of minus infinity."""
    masks = dead.split([len(part.rows) for part in parts])
    if dead.device.type == "cpu":
        return [Affine(x, rows[own], bias[own]) for (x, rows, bias), own in zip(parts, masks, strict=True)]
    return [
        Affine(x, rows, bias.masked_fill(~own, -torch.inf)) for (x, rows, bias), own in zip(parts, masks, strict=True)
    ]


def _strength(activation: Activation, pre: Tensor) -> Tensor:
    """Returns the values by which the largest pre-activations are selected."""
    return pre.detach().abs() if activation.by_magnitude else pre.detach()
