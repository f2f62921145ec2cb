"""MLPs of TransformerLens: wrapped modules in version 4, native ones in version 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from sparsedict.sites._neurons import Neurons
from sparsedict.sites._points import Point, is_hook_point
from sparsedict.sites.families._candidate import Candidate, activations, matrix
from sparsedict.sites.families._gated import from_matrices


def bridge(module: nn.Module) -> Iterator[Candidate]:
    """Yields the candidates of a `TransformerBridge` MLP, or of a block with one.

    Its layers are ``in``, ``out`` and, if it is gated, ``gate``.
    """
    inner = getattr(module, "mlp", module)
    encoder, decoder, gate = (getattr(inner, name, None) for name in ("in", "out", "gate"))
    hidden, original = getattr(decoder, "hook_in", None), getattr(inner, "original_component", None)
    first, second, third = matrix(encoder), matrix(decoder), matrix(gate)
    if not (is_hook_point(hidden) and isinstance(original, nn.Module)) or first is None or second is None:
        return
    point = Point(hidden, "out", "decoder")  # pyright: ignore[reportArgumentType]
    # An MLP without a separate module is bound to its parent layer, which then has the activation.
    intermediate = getattr(original, "intermediate", None)
    holders = [original, *([intermediate] if isinstance(intermediate, nn.Module) else [])]
    if third is not None:
        yield from from_matrices(third, first, second, point, *holders)
    elif first[0].shape[0] == second[0].shape[1]:
        for activation, certain in activations(*holders):
            yield Candidate(_neurons(first[0], second[0].T, activation, first[1], second[1]), point, certain)


def hooked(module: nn.Module) -> Iterator[Candidate]:
    """Yields the candidate of a `HookedTransformer` MLP, or of a block with one."""
    inner = getattr(module, "mlp", module)
    weights = [getattr(inner, name, None) for name in ("W_in", "W_out", "b_in", "b_out", "W_gate")]
    hidden, activation = getattr(inner, "hook_post", None), getattr(inner, "act_fn", None)
    w_in, w_out, b_in, b_out, w_gate = (w.detach() if isinstance(w, Tensor) and w.ndim <= 2 else None for w in weights)
    if w_in is None or w_out is None or not is_hook_point(hidden) or not callable(activation):
        return
    point = Point(hidden, "out", "decoder")  # pyright: ignore[reportArgumentType]
    neurons = _neurons(w_in.T, w_out, activation, b_in, b_out)
    if w_gate is not None:
        # Version 3 adds the bias after the product with the gate, so it is moved into the decoder's bias.
        shifted = b_out if b_in is None or b_out is None else b_out + b_in @ w_out
        neurons = replace(_neurons(w_in.T, w_out, activation, None, shifted), gate=w_gate.T)
        if b_in is not None and bool(b_in.any()):
            yield Candidate(neurons, None, True)
            return
    yield Candidate(neurons, point, True)


def _neurons(encoder: Tensor, decoder: Tensor, activation: object, bias: Tensor | None, out: Tensor | None) -> Neurons:
    return Neurons(encoder, decoder, activation, bias, out)  # pyright: ignore[reportArgumentType]
