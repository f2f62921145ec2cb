"""Gradients of functions of the logits with respect to the input of the unembedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsedict.circuits._cut import Pass
from sparsedict.circuits._prompt import Prompt
from sparsedict.circuits._targets import ResolvedTarget
from sparsedict.sites.models import loaded, output_embedding


@torch.enable_grad()
def through_unembedding(prompt: Prompt, pass_: Pass, targets: Sequence[ResolvedTarget]) -> tuple[Tensor, Tensor] | None:
    """Returns the input of the unembedding, and the gradients of functions of the logits with respect to it.

    A target depends on the logits of one position. Backward passes through the unembedding at all positions would take
    most of the time and memory for a long prompt.

    Args:
        prompt: The prompt.
        pass_: A pass with a graph.
        targets: Targets that are linear functions of the logits.

    Returns:
        The input of the unembedding, and gradients ``[n_targets, *shape]``; None if the logits aren't the outputs of
        a linear module.
    """
    head, hidden = output_embedding(prompt.cut.model), pass_.hidden
    if type(head) is not nn.Linear or hidden is None or hidden.numel() // hidden.shape[-1] != prompt.n_positions:
        return None
    # Accelerate may have offloaded the weights.
    weight, bias = loaded(head, "weight"), loaded(head, "bias")
    if not hidden.dtype == weight.dtype == pass_.logits.dtype:
        return None
    rows = prompt.rows(hidden.detach())
    gradients = rows.new_zeros(len(targets), *rows.shape)
    for gradient, target in zip(gradients, targets, strict=True):
        assert target.function is not None
        leaf = prompt.logits(pass_, target.position)[0].detach().requires_grad_()
        row = rows[target.position].to(weight.device)
        if not torch.allclose(functional.linear(row, weight, bias), leaf.to(row), rtol=1e-3, atol=1e-4):
            return None
        (by_logits,) = torch.autograd.grad(target.function(leaf), leaf)
        gradient[target.position] = (by_logits.to(weight) @ weight.detach()).to(gradient)
    return hidden, gradients.reshape(len(targets), *hidden.shape)
