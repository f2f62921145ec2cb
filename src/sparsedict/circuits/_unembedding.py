"""Gradients of functions of logits by what the unembedding reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsedict.circuits._cut import Pass
from sparsedict.circuits._prompt import Prompt
from sparsedict.sites.models import output_embedding


@torch.enable_grad()
def through_unembedding(
    prompt: Prompt, pass_: Pass, functions: Sequence[Callable[[Tensor], Tensor]]
) -> tuple[Tensor, Tensor] | None:
    """Returns what the unembedding read, and the gradients of functions of the logits by it.

    A target depends on the logits of few positions. Backward passes through the unembedding at all positions would take
    most of the time and memory for a long prompt.

    Args:
        prompt: The prompt.
        pass_: A pass with a graph.
        functions: Linear functions of the logits ``[n_positions, n_vocabulary]``.

    Returns:
        The input of the unembedding, and gradients ``[n_functions, *shape]``; None if the logits aren't the outputs of
        a linear module.
    """
    head, hidden, logits = output_embedding(prompt.cut.model), pass_.hidden, prompt.logits(pass_)[0].detach()
    if type(head) is not nn.Linear or hidden is None or hidden.numel() // hidden.shape[-1] != len(logits):
        return None
    if not hidden.dtype == head.weight.dtype == logits.dtype:
        return None
    rows = prompt.rows(hidden.detach())
    gradients = rows.new_zeros(len(functions), *rows.shape)
    for gradient, function in zip(gradients, functions, strict=True):
        leaf = logits.requires_grad_()
        (by_logits,) = torch.autograd.grad(function(leaf), leaf)
        used = by_logits.any(-1).nonzero().flatten()
        if not torch.allclose(functional.linear(rows[used], head.weight, head.bias), leaf[used], rtol=1e-3, atol=1e-4):
            return None
        gradient[used] = (by_logits[used] @ head.weight.detach()).to(gradient)
    return hidden, gradients.reshape(len(functions), *hidden.shape)
