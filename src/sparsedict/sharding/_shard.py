"""`Shard`, the part of a dictionary's latents that one process holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from sparsedict.activations import Activation
from sparsedict.latents import Support
from sparsedict.parallel import WholeBatch
from sparsedict.selections import Selection
from sparsedict.sharding._merge import competes, merge, own_rule
from sparsedict.sharding._peers import Peers
from sparsedict.sharding._slices import slices_of


class Shard:
    """The latents of one process, and the processes that hold the others.

    The rows of each block of latents are divided evenly, in the order of ranks.

    Args:
        peers: The processes that share the latents.
        sizes: Number of latents of each block, over all processes.
        activation: The activation of the whole dictionary.
        device: Device of the weights.

    Attributes:
        peers: See the argument.
        sizes: See the argument.
        activation: See the argument.
        slices: Slice of each block that this process holds.
        latents: Index of each latent of this process among those of all.
        divided: The tensors of the dictionary with one row per latent.
    """

    def __init__(self, peers: Peers, sizes: Sequence[int], activation: Activation, device: torch.device) -> None:
        self.peers = peers
        self.sizes: tuple[int, ...] = tuple(sizes)
        self.activation = activation
        self.slices: tuple[slice, ...] = slices_of(sizes, peers.rank, peers.size)
        starts = torch.tensor([0, *sizes], device="cpu").cumsum(0).tolist()
        parts = zip(starts, self.slices, strict=False)
        found = [torch.arange(start + own.start, start + own.stop, device=device) for start, own in parts]
        self.latents: Int[Tensor, " n_latents"] = torch.cat(found)
        self.divided: tuple[Tensor, ...] = ()
        self._shared: dict[nn.Parameter, Tensor | None] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Shard:
        return self

    @property
    def own_sizes(self) -> tuple[int, ...]:
        """Number of latents of each block of this process."""
        return tuple(own.stop - own.start for own in self.slices)

    @property
    def positions(self) -> Int[Tensor, " n_latents"]:
        """Index of each latent of this process within its block."""
        parts = [torch.arange(own.start, own.stop, device=self.latents.device) for own in self.slices]
        return torch.cat(parts)

    def rows(self, vector: Shaped[Tensor, "n_latents ..."]) -> Shaped[Tensor, "n_own ..."]:
        """Returns the entries of this process of a tensor with one entry for each latent of all processes."""
        return vector.index_select(0, self.latents.to(vector.device)) if len(vector) == sum(self.sizes) else vector

    @property
    def n_latents(self) -> int:
        """Number of latents of all processes."""
        return sum(self.sizes)

    def norm(self, tensors: Iterable[tuple[Tensor, Tensor]]) -> Float[Tensor, ""]:
        """Returns the norm over all processes of several tensors together.

        Args:
            tensors: Pairs of a parameter of the dictionary and the norm of a tensor of its shape.
        """
        own = {id(weight) for weight in self.divided}
        parts = [(id(weight) in own, norm.square()) for weight, norm in tensors]
        zero = torch.zeros((), device=self.latents.device)
        divided = torch.stack([zero, *(square for is_own, square in parts if is_own)]).sum()
        common = torch.stack([zero, *(square for is_own, square in parts if not is_own)]).sum()
        return (self.peers.sum(divided) + common).sqrt()

    def competes(self, rule: Selection | None) -> bool:
        """Returns whether latents of several processes compete under a rule."""
        return competes(rule)

    def own_rule(self, rule: Selection) -> Selection:
        """Returns the rule that selects the candidates of this process."""
        return own_rule(rule, self.own_sizes)

    def global_selection(
        self,
        rule: Selection,
        support: Support,
        known: Float[Tensor, " n_entries"],
        strengths: Tensor | None = None,
        whole: WholeBatch | None = None,
    ) -> tuple[Support, Float[Tensor, " n_kept"]]:
        """Returns the entries of this process that a rule selects among the latents of all processes.

        Args:
            rule: The rule for all latents. It may apply to each block (`Blockwise`).
            support: The candidates of this process.
            known: Their pre-activations, without gradient.
            strengths: Values by which entries are selected; the pre-activations by default.
            whole: The batch over several ranks if its rows are divided too, and the rule selects among all of them.
        """
        strengths = known if strengths is None else strengths
        kept = merge(rule, support, strengths, self.latents, self.sizes, self.peers, whole)
        return (support, known) if kept is None else _compacted(support, known, kept)

    def shared(self, parameter: nn.Parameter) -> Tensor:
        """Returns a parameter that all processes have, for use on the way to the latents.

        Each process computes the gradient through its own latents. `finish_gradients_` adds up these gradients.
        """
        self._shared.setdefault(parameter, None)
        return _Shared.apply(parameter, self)

    def forget_shared(self) -> Iterable[nn.Parameter]:
        """Returns the parameters that were passed to `shared`, and forgets them."""
        found, self._shared = tuple(self._shared), {}
        return found

    def add_gradient(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Adds a gradient of this process, which `finish_gradients_` will send."""
        before = self._shared.get(parameter)
        self._shared[parameter] = gradient if before is None else before + gradient

    @torch.no_grad()
    def finish_gradients_(self) -> None:
        """Completes the gradients of shared parameters after a backward pass, by one collective."""
        parameters = [parameter for parameter in self._shared if parameter.requires_grad]
        if not parameters:
            return
        found = [self._shared[p] if self._shared[p] is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([own.flatten() for own in found if own is not None])
        self.peers.sum_(flat)
        for parameter, own in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            gradient = own.view_as(parameter)
            parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad.add_(gradient)
        self._shared = dict.fromkeys(self._shared)


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, shard: Shard) -> Tensor:
        ctx.parameter, ctx.shard = parameter, shard
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.shard.add_gradient(ctx.parameter, grad_outputs[0].detach())
        return None, None


def _compacted(support: Support, known: Tensor, kept: Tensor) -> tuple[Support, Tensor]:
    """Returns the kept entries. On accelerators their number isn't read, so there is padding instead."""
    offsets = torch.nn.functional.pad(kept.cumsum(0), (1, 0)).index_select(0, support.offsets)
    if known.device.type == "cpu":
        chosen = kept.nonzero().flatten()
        latents = support.latents.index_select(0, chosen)
        return Support(latents, offsets, support.n_latents, memory=support.memory), known.index_select(0, chosen)
    order = (~kept).to(torch.uint8).sort(stable=True).indices
    is_stored = torch.arange(len(order), device=order.device) < offsets[-1]
    latents = torch.where(is_stored, support.latents.index_select(0, order), 0)
    return Support(latents, offsets, support.n_latents, True, support.memory), known.index_select(0, order)
