from __future__ import annotations

from dataclasses import KW_ONLY, InitVar, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations import Activation
from sparsedict.dictionaries import ForwardPass
from sparsedict.kernels import affine_at, select
from sparsedict.latents import SparseLatents, Support
from sparsedict.penalties._penalty import Penalty
from sparsedict.selections import Largest


@dataclass(frozen=True)
class AuxK(Penalty):
    r"""Lets dead latents model what the others left over, so that they come back to life.

    The ``k`` largest pre-activations of dead latents, after ReLU, are the latents :math:`z`. With `AbsTopK` they are
    the ``k`` of largest magnitude, with their signs. What they add to the output predicts the error of the
    reconstruction, which is held constant:

    .. math:: c \, \frac{1}{n} \sum_t \left| (y_t - \hat y_t)
        - (\mathrm{reconstruct}(z_t, x_t) - \mathrm{reconstruct}(0, x_t)) \right|^2

    Its gradient reaches encoder, encoder bias and decoder of the dead latents, and the parameters by which
    ``reconstruct`` scales what latents contribute. It is zero where no latent is dead.

    Args:
        k: Dead latents used on a token; ``None`` means half the width of the output.
        dead_after: A latent is dead after this many tokens without firing.
        coefficient: Weight of the penalty, :math:`c`.
        idle_tokens: The former name of ``dead_after``.

    Source: Gao et al., "Scaling and evaluating sparse autoencoders", 2024, appendix A.2, as the text has it. Code
    differs. OpenAI and dictionary_learning divide the penalty by the variance of the error over the batch, sparsify by
    the variance of the targets. Here, as in SAELens, it has the units of the squared error. sparsify and
    SAELens multiply it by ``n_dead / k`` where fewer than ``k`` latents are dead, sparsify adds the decoder's bias to
    what dead latents contribute, and SAELens applies no ReLU to their pre-activations; none of it is done here.
    """

    k: int | None = None
    dead_after: int = 200_000
    coefficient: float = 1 / 32
    _: KW_ONLY
    idle_tokens: InitVar[int | None] = None

    def __post_init__(self, idle_tokens: int | None) -> None:
        checks.renamed(self, "dead_after", "idle_tokens", idle_tokens)
        if self.k is not None:
            checks.set_at_least(self, "k", 1)
        checks.set_at_least(self, "dead_after", 1)
        checks.set_in_range(self, "coefficient", 0.0)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        dictionary, n_tokens = out.dictionary, out.n_tokens
        dead = out.tokens_since_fired >= self.dead_after
        missing = (out.targets - out.reconstruction).detach()
        # Asking whether there is any makes an accelerator wait; the CPU knows.
        if dead.device.type == "cpu" and not bool(dead.any()):
            return dictionary.encoder_bias[0] * 0.0
        values, support = self._largest_dead(out, dead)
        # Latents that aren't dead can fill a row that has too few dead ones: they count as zero.
        values = values if dictionary.activation.by_magnitude else values.relu()
        latents = SparseLatents(values * dead[support.latents], support, torch.Size((n_tokens,)))
        nothing = SparseLatents.none(n_tokens, dictionary.n_latents, values, memory=out.context.workspace)
        added = dictionary.reconstruct(latents, out.inputs) - dictionary.reconstruct(nothing, out.inputs)
        error = (missing - added).square().sum(-1).mean()
        return torch.where(dead.any(), error * self.coefficient, torch.zeros_like(error))

    def _largest_dead(self, out: ForwardPass, dead: Bool[Tensor, " n_latents"]) -> tuple[Tensor, Support]:
        """Returns the largest pre-activations of dead latents, differentiable in encoder and encoder bias."""
        dictionary = out.dictionary
        k = min(self.k or dictionary.d_out // 2 or 1, dictionary.n_latents)
        if not dictionary.has_affine_encoder:
            pre = dictionary.pre_activations(out.inputs)
            strength = _strength(dictionary.activation, pre).masked_fill(~dead, -torch.inf)
            support = Largest(k).support(strength).with_memory(out.context.workspace)
            known = pre[support.tokens, support.latents]
            return dictionary.pre_activations_at(out.inputs, support, known), support
        # Only the dead latents may move: the offset that all latents share stays out of it.
        inputs = dictionary.encoder_inputs(out.inputs).detach()
        encoder, bias = dictionary.encoder, dictionary.encoder_bias
        if dictionary.activation.by_magnitude:
            strength = _strength(dictionary.activation, torch.addmm(bias.detach(), inputs, encoder.detach().T))
            support = Largest(k).support(strength.masked_fill(~dead, -torch.inf)).with_memory(out.context.workspace)
            return affine_at(inputs, encoder, bias, support), support
        workspace = out.context.workspace
        if dead.device.type == "cpu":
            among = dead.nonzero().flatten()
            rule = Largest(min(k, len(among)))
            picked = select(inputs, encoder[among].detach(), bias[among].detach(), rule, workspace=workspace)
        else:
            among = None
            picked = select(inputs, encoder, bias.masked_fill(~dead, -torch.inf), Largest(k), workspace=workspace)
        assert picked is not None  # the rule has no limit at which it gives up
        support, known = picked
        if among is not None:
            support = Support(among[support.latents], support.offsets, dictionary.n_latents)
        support = support.with_memory(workspace)
        return affine_at(inputs, encoder, bias, support, known), support


def _strength(activation: Activation, pre: Tensor) -> Tensor:
    """By what pre-activations compete for a place."""
    return pre.detach().abs() if activation.by_magnitude else pre.detach()
