"""`frozen`, a context in which a model runs with held attention patterns and norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from sparsedict import checks
from sparsedict.circuits._affine import measure_affinity, not_affine
from sparsedict.circuits._cut import CutModel
from sparsedict.circuits._sites import AnySites, as_sites
from sparsedict.sites.models import Tokens, evaluating
from sparsedict.torch_state import own_state


@dataclass(frozen=True)
class Frozen:
    """Properties of a model with held values.

    Attributes:
        n_held: Number of held tensors: attention patterns, and denominators of norms.
        deviation: Largest relative deviation of the model, with its MLPs cut out, from an affine function.
    """

    n_held: int
    deviation: float


@contextmanager
def frozen(model: AnySites, tokens: Tokens, *, before_cap: bool = False) -> Iterator[Frozen]:
    """Context in which attention patterns and the denominators of norms are held at their values on a prompt.

    Inside the context, the model can be called on the same tokens, or on copies of them, with any changes of
    activations, such as by `Sites.replaced`. The model is in evaluation mode.

    At the start, the context checks that the model is affine in token embeddings and the outputs of the MLPs.

    Args:
        model: The MLPs of one model. Every MLP needs a site. A model stands for all its MLPs, if they are found.
        tokens: Token ids ``[n_sequences, n_positions]``, or a mapping of the model's keyword arguments.
        before_cap: Whether to check the output of the unembedding, rather than logits to which a soft cap is applied.

    Yields:
        The number of held values and the measured deviation from an affine function.

    Raises:
        NotAffineError: If the model has a nonlinearity that isn't held. The message names the module.

    Example:
        >>> import torch, sparsedict as sd
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.LayerNorm(4), mlp, torch.nn.Linear(4, 10))
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> with sd.circuits.frozen(sd.Site(model, "2"), tokens) as held:
        ...     logits = model(tokens)
        >>> held.n_held, held.deviation < 1e-5
        (1, True)
    """
    found = as_sites(model)
    cut = CutModel(found, tokens)
    # In the caller's autocast, rounding errors would look like a nonlinearity.
    with own_state(), torch.no_grad():
        first = cut.run()
        affinity = measure_affinity(cut, first)
    deviation = affinity.head if checks.boolean("before_cap", before_cap) else affinity.logits
    if not deviation <= affinity.most:
        raise not_affine(cut, first, "the output of the unembedding" if before_cap else "the logits", deviation)
    with ExitStack() as stack:
        stack.enter_context(evaluating(cut.model))
        handle = cut.model.register_forward_pre_hook(lambda *_: cut.held.start(record=False))
        stack.callback(handle.remove)
        stack.enter_context(cut.held)
        yield Frozen(len(cut.held), max(affinity.inputs, deviation))
