"""Finds a model's unembedding and the norm before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict.display import Displayed
from sparsedict.seeds import generator
from sparsedict.sites._devices import loaded, module_device
from sparsedict.sites._embedding import output_embedding
from sparsedict.sites._limits import vocabulary
from sparsedict.sites._modes import evaluating
from sparsedict.sites._tokens import prepare

TOLERANCE = 1e-3
_SCALE = 8.0
"""Scale of the probes of a norm, at which its epsilon is negligible."""


@dataclass(frozen=True, eq=False, repr=False)
class Unembedding(Displayed):
    r"""The map from the residual stream to the logits, without the division by the norm of the residual stream.

    .. math::
        \text{logits} = U \, (g \odot c(x)) / \|c(x)\| + \ldots

    Attributes:
        weight: $U$, ``[n_vocabulary, d_model]``.
        gain: $g$, the scale of the final norm, ``[d_model]``; ones if there is no norm.
        centres: Whether $c$ subtracts the mean of $x$, as LayerNorm does, or not, as RMSNorm.
        norm: Path of the final norm; ``None`` if there is none.
    """

    weight: Float[Tensor, "n_vocabulary d_model"]
    gain: Float[Tensor, " d_model"]
    centres: bool
    norm: str | None

    @torch.no_grad()
    def logits(self, directions: Float[Tensor, "n d_model"]) -> Float[Tensor, "n n_vocabulary"]:
        """Returns the change of the logits by directions in the residual stream, minus its mean over the vocabulary.

        The change is that for a residual stream of unit root mean square. Its scale differs from token to token, while
        the order of the tokens doesn't.
        """
        rows = directions.to(self.weight.device, torch.float32)
        rows = rows - rows.mean(1, keepdim=True) if self.centres else rows
        logits = (rows * self.gain.float()) @ self.weight.float().T
        return logits - logits.mean(1, keepdim=True)


class NoUnembeddingError(ValueError):
    """A model's unembedding can't be found. The message gives the reason."""


def unembedding(model: nn.Module) -> Unembedding:
    """Returns the unembedding of a language model, and the norm whose output it reads.

    The unembedding is the model's output embedding, or the layer named ``unembed`` or ``lm_head``. The norm is the
    module whose output it reads in a forward pass, and its scale is measured on probes.

    Args:
        model: A Hugging Face or TransformerLens model, or another model with one of these names.

    Raises:
        NoUnembeddingError: If there is no unembedding, or its input is neither the residual stream nor its norm.
    """
    head = output_embedding(model)
    weight = loaded(head, "W_U")
    weight = weight.T if isinstance(weight, Tensor) else loaded(head, "weight")
    if head is None or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise NoUnembeddingError(f"The {type(model).__name__} has no unembedding, such as `lm_head`.")
    weight = weight.detach()
    with torch.no_grad(), evaluating(model):
        for path, module in _Calls(model, head).last_modules():
            found = _norm(module, weight)
            if found is not None:
                return Unembedding(weight, *found, path)
    raise NoUnembeddingError(
        f"The unembedding of the {type(model).__name__} reads neither a LayerNorm nor an RMSNorm of the residual "
        "stream."
    )


class _Calls:
    """The calls of all modules in a forward pass of two tokens, up to the unembedding."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        self._head = head
        self._outputs: list[tuple[str, nn.Module, Tensor, Tensor]] = []
        self._read: Tensor | None = None
        handles = [head.register_forward_pre_hook(self._before_head)]
        handles += [m.register_forward_hook(self._hook(name)) for name, m in model.named_modules() if name]
        try:
            ids = torch.zeros(1, 2, dtype=torch.int64, device="cpu") + min(1, (vocabulary(model) or 2) - 1)
            call = prepare(model, ids, cache=False)
            model(*call.args, **call.kwargs)
        except Exception as error:
            raise NoUnembeddingError(f"The {type(model).__name__} doesn't run on token ids alone: {error}") from error
        finally:
            for handle in handles:
                handle.remove()

    def _before_head(self, _: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            self._read = args[0]

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and args and isinstance(args[0], Tensor) and self._read is None:
                self._outputs.append((name, module, args[0], output))

        return hook

    def last_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yields the modules whose output the unembedding reads and whose input may be the residual stream."""
        for name, module, given, output in self._outputs:
            if _is_same(output, self._read) and not self._is_computed(given):
                yield name, module

    def _is_computed(self, value: Tensor) -> bool:
        """Returns whether a tensor comes from a linear layer or an activation function, and not from a sum."""
        for _, module, given, output in self._outputs:
            if _is_same(output, value) and not _is_same(given, output):
                return isinstance(module, nn.Linear) or not any(True for _ in module.parameters())
        return False


def _is_same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and (a is b or (a.shape == b.shape and a.data_ptr() == b.data_ptr()))


def _norm(module: nn.Module, weight: Tensor) -> tuple[Tensor, bool] | None:
    """Returns the scale of a norm and whether it subtracts the mean; ``None`` if the module isn't a norm."""
    width = weight.shape[1]
    dtype = next(module.parameters(), weight).dtype
    device = module_device(module) or weight.device
    random = torch.randn(2, 1, 1, width, generator=generator(0), device="cpu", dtype=torch.float32)
    probes = (random * _SCALE).to(device, dtype)
    try:
        odd = [(module(x) - module(-x)).flatten().float() / 2 for x in probes]
    except Exception:
        return None
    if any(part.shape != (width,) for part in odd):
        return None
    for centres in (False, True):
        flat = [x.flatten().float() for x in probes]
        flat = [x - x.mean() if centres else x for x in flat]
        first, second = (x / x.square().mean().sqrt() for x in flat)
        gain = odd[0] / first
        if (gain * second - odd[1]).abs().max() <= TOLERANCE * max(float(odd[1].abs().max()), 1e-30):
            return gain, centres
    return None
