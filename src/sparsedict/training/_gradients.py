"""`Gradients`, which evaluates a dictionary on a batch and computes the gradients of loss and penalties."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sparsedict.batches import Activations
from sparsedict.dictionaries import ForwardPass, Rows
from sparsedict.kernels import Capacity, StepContext, Workspace, compacts
from sparsedict.parallel import Parallel, WholeBatch
from sparsedict.training._state import stateful
from sparsedict.training._trainee import Trainee

DENSITY_UNIT = 2**40
"""Densities are exchanged as integers, in this fraction."""


class Gradients:
    """Computes the gradients of the objective, which is the loss plus the penalties.

    On an accelerator, memory for the stored entries is allocated before their number is known (`kernels.Capacity`). If
    it wasn't sufficient, the gradients are computed again.

    Args:
        trainee: The dictionary and its training options.
        optimizer: The optimiser of its parameters.
        autocast: Type of the matrix products, or ``None``.
        workspace: Memory that is reused between steps.
        parallel: The ranks of the run.
    """

    def __init__(
        self,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        *,
        autocast: torch.dtype | None,
        workspace: Workspace,
        parallel: Parallel,
    ) -> None:
        self._trainee = trainee
        self._dictionary = trainee.dictionary
        self._optimizer = optimizer
        self._autocast = autocast
        self._workspace = workspace
        self._parallel = parallel
        self._parts_keep_state = any(True for _ in stateful([trainee.loss, *trainee.penalties], ""))
        self._has_capacity = compacts(trainee.dictionary.decoder_bias.device)

    def compute_(
        self, rows: Rows, batch: Activations, whole: WholeBatch, density: float, position: dict[str, Any]
    ) -> tuple[ForwardPass, list[Tensor], float]:
        """Computes the gradients of all parameters.

        Args:
            rows: Inputs and targets of the dictionary.
            batch: All activations of the same tokens.
            whole: The batch over all ranks.
            density: Share of the latent entries that the previous step stored.
            position: Step, number of steps and ``tokens_since_fired``, for the forward pass.

        Returns:
            The forward pass, the objective with its terms (loss and penalties), and the density of this step.
        """
        forward = partial(self._dictionary.forward_pass, *rows, batch=batch, **position)
        context = StepContext(workspace=self._workspace, whole=whole)
        if not self._has_capacity:
            return *self._objective_gradients(forward, context), density
        capacity = Capacity(density)
        out, terms = self._objective_gradients(forward, replace(context, capacity=capacity))
        if not self._was_sufficient(capacity):
            out, terms = self._objective_gradients(forward, context)
        return out, terms, capacity.density

    def _objective_gradients(
        self, forward: partial[ForwardPass], context: StepContext
    ) -> tuple[ForwardPass, list[Tensor]]:
        trainee = self._trainee
        self._drop_gradients()
        # The autocast context of the caller would reuse cast weights of the previous step.
        torch.clear_autocast_cache()
        try:
            with torch.enable_grad():
                with self._autocast_context():
                    out = self._forward_pass(forward, context)
                    terms = [trainee.loss(out), *(penalty(out) for penalty in trainee.penalties)]
                    objective = torch.stack(terms).sum()
                objective.backward()
        finally:
            self._workspace.release()
        return out, [objective, *terms]

    def _forward_pass(self, forward: partial[ForwardPass], context: StepContext) -> ForwardPass:
        out = forward(context=context)
        # A stateful loss or penalty must be called only once a step, so the entries must be complete before the call.
        if context.capacity is not None and self._parts_keep_state and not self._was_sufficient(context.capacity):
            return forward(context=replace(context, capacity=None))
        return out

    def _was_sufficient(self, capacity: Capacity) -> bool:
        """Returns whether the capacity was sufficient on every rank. All ranks then have the same density."""
        own = capacity.was_sufficient()
        if self._parallel.n_ranks == 1:
            return own
        rows = self._parallel.exchange(int(not own), round(capacity.density * DENSITY_UNIT))
        capacity.density = max(row[1] for row in rows) / DENSITY_UNIT
        return not any(row[0] for row in rows)

    def _drop_gradients(self) -> None:
        """Drops the gradients of the previous step, whose memory the workspace may reuse."""
        parameters = self._dictionary.parameters()
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self._optimizer.zero_grad()
        self._workspace.reclaim(gradients)

    def _autocast_context(self) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._dictionary.decoder_bias.device.type, self._autocast)
