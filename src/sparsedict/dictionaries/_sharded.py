"""Division of a dictionary's latents among processes, and collection of the whole dictionary."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict.activations import PerLayer
from sparsedict.dictionaries._block_products import sizes_of
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._encoder_decoder import EncoderDecoder
from sparsedict.selections import Above, Blockwise, Largest, LargestOfBatch, Selection
from sparsedict.sharding import Peers, Shard, slices_of


@torch.no_grad()
def shard_(dictionary: Dictionary, peers: Peers, device: torch.device | None = None) -> None:
    """Divides the latents of a dictionary among processes, in place. Every process must have an equal dictionary.

    Each process keeps an equal share of the rows of every block, and the parameters that belong to no latent. The
    parameters remain the same objects. `Dictionary.forward_pass` then returns the latents of this process and the
    reconstruction from all latents. After a backward pass, ``dictionary.shard.finish_gradients_()`` completes the
    gradients.

    Args:
        dictionary: The dictionary.
        peers: The processes.
        device: Device of this process's weights; that of the dictionary by default.

    Raises:
        ValueError: If the dictionary is already sharded, or its kind or activation can't be.
    """
    _check(dictionary)
    shard = Shard(peers, _sizes(dictionary), dictionary.activation, device or dictionary.encoder_bias.device)
    activation = dictionary.activation.for_shard(peers.size, shard.own_sizes)
    _check_shared(dictionary, shard)
    for weight, rows, _ in list(_latent_rows(dictionary, shard)):
        weight.data = weight.data.index_select(0, rows.to(weight.device)).to(shard.latents.device)
    for weight in (*dictionary.parameters(), *dictionary.buffers()):
        weight.data = weight.data.to(shard.latents.device)
    shard.divided = tuple(weight for weight, _, _ in _latent_rows(dictionary, shard))
    dictionary.activation, dictionary.shard = activation, shard
    if dictionary.layer_sizes:
        dictionary.layer_sizes = shard.own_sizes


@torch.no_grad()
def gather_(dictionary: Dictionary, device: torch.device | None = None) -> None:
    """Makes a sharded dictionary whole on every process, in place. Every process must call it.

    Args:
        dictionary: A dictionary after `shard_`.
        device: Device of the whole weights; that of the sharded weights by default.

    Raises:
        ValueError: If the dictionary isn't sharded.
    """
    shard = dictionary.shard
    if shard is None:
        raise ValueError("`dictionary` must be sharded by `shard_`, got a whole dictionary.")
    device = dictionary.encoder_bias.device if device is None else device
    dictionary.shard = None
    for weight, rows, sizes in list(_latent_rows(dictionary, shard)):
        weight.grad = None
        weight.data = _whole(weight.data, rows, sizes, shard, device)
    for weight in (*dictionary.parameters(), *dictionary.buffers()):
        weight.data = weight.data.to(device)
    dictionary.activation = shard.activation
    if dictionary.layer_sizes:
        dictionary.layer_sizes = shard.sizes


def _sizes(dictionary: EncoderDecoder) -> tuple[int, ...]:
    """Returns the numbers of latents that are divided separately: those of layers, or of the activation's layers."""
    activation = dictionary.activation
    sizes = sizes_of(dictionary.blocks())
    return activation.n_latents or sizes if isinstance(activation, PerLayer) and len(sizes) == 1 else sizes


def _latent_rows(
    dictionary: EncoderDecoder, shard: Shard
) -> Iterator[tuple[Tensor, Int[Tensor, " n_own"], tuple[int, ...]]]:
    """Yields each tensor with one row per latent, the indices of this process's rows in the whole tensor, and sizes.

    The sizes are the numbers of rows of the blocks of the whole tensor.
    """
    tensors = {**dict(dictionary.named_parameters()), **dict(dictionary.named_buffers())}
    of_blocks = _of_blocks(dictionary)
    for name in _names_of_rows(dictionary):
        if name in of_blocks:
            own = shard.slices[of_blocks[name]]
            rows = torch.arange(own.start, own.stop, device=shard.latents.device)
            yield tensors[name], rows, (shard.sizes[of_blocks[name]],)
        else:
            yield tensors[name], shard.latents, shard.sizes


def latent_blocks(dictionary: Dictionary) -> dict[str, tuple[int, ...]]:
    """Returns the weights of a divided dictionary with one row per latent, and the blocks to which the rows belong.

    Args:
        dictionary: A dictionary after `shard_`.
    """
    assert dictionary.shard is not None  # a condition
    everything, of_blocks = tuple(range(len(dictionary.shard.sizes))), _of_blocks(dictionary)
    return {name: (of_blocks[name],) if name in of_blocks else everything for name in _names_of_rows(dictionary)}


def _of_blocks(dictionary: EncoderDecoder) -> dict[str, int]:
    return {name: index for index, names in enumerate(dictionary.per_block) for name in names}


def _names_of_rows(dictionary: EncoderDecoder) -> list[str]:
    """Returns the names of all parameters and buffers with one row per latent."""
    known, n_latents = dictionary.per_latent | _of_blocks(dictionary).keys(), len(dictionary.encoder_bias)
    return [
        name
        for name, tensor in (*dictionary.named_parameters(), *dictionary.named_buffers())
        if name in known or (name.startswith("activation_state.") and tensor.ndim and len(tensor) == n_latents)
    ]


def _whole(own: Tensor, rows: Tensor, sizes: tuple[int, ...], shard: Shard, device: torch.device) -> Tensor:
    """Returns a whole tensor, given the rows of this process, their indices, and the sizes of the tensor's blocks."""
    # The first process has the most rows.
    width = sum(own.stop - own.start for own in slices_of(sizes, 0, shard.peers.size))
    padded = own.new_zeros(width, *own.shape[1:])
    padded[: len(own)] = own
    indices = rows.new_full((width,), -1)
    indices[: len(rows)] = rows
    everything, where = shard.peers.gather(padded).to(device), shard.peers.gather(indices).flatten().to(device)
    found = everything.flatten(0, 1)
    order = where.argsort(stable=True)[int((where < 0).sum()) :]
    return found.index_select(0, order)


def _check(dictionary: Dictionary) -> None:
    if dictionary.shard is not None:
        raise ValueError("`dictionary` must be whole, but its latents are already divided among processes.")
    kind = type(dictionary).__name__
    if not dictionary.has_affine_encoder or type(dictionary).decode is not EncoderDecoder.decode:
        raise ValueError(
            f"`dictionary` must have an affine encoder and a linear decoder if its latents are divided among "
            f"processes, got a {kind}. Train it with `sd.DataParallel` instead."
        )
    activation, state = dictionary.activation, dictionary.activation_state
    scalars = [name for name, value in state.named_parameters() if not value.ndim]
    if scalars:
        raise ValueError(
            f"`activation` must have no learned number that all latents share if latents are divided among "
            f"processes, got {activation!r}. Train it with `sd.DataParallel` instead."
        )
    rule = activation.competition(state.entries(), training=True)
    if not _is_known(rule):
        raise ValueError(
            f"`activation.competition` must return a rule of `sparsedict.selections`, such as Largest, got {rule!r}. "
            "Train the dictionary with `sd.DataParallel` instead."
        )


def _is_known(rule: Selection | None) -> bool:
    if isinstance(rule, Blockwise):
        return all(map(_is_known, rule.rules))
    return rule is None or type(rule) in (Above, Largest, LargestOfBatch)


def _check_shared(dictionary: Dictionary, shard: Shard) -> None:
    """Raises an error if the encoder uses a parameter that the kind doesn't pass through `shared`."""
    dictionary.shard = shard
    try:
        with torch.enable_grad():
            encoded = dictionary.encoder_inputs(dictionary.encoder_bias.new_zeros(1, dictionary.d_in))
        shard.forget_shared()
    finally:
        dictionary.shard = None
    found = {id(weight) for weight in _leaves(encoded)}
    names = [name for name, weight in dictionary.named_parameters() if id(weight) in found]
    if names:
        raise ValueError(
            f"`encoder_inputs` of {type(dictionary).__name__} must pass {names} through `self.shared(...)`, so that "
            "gradients of all processes are added up."
        )


def _leaves(tensor: Tensor) -> Iterator[Tensor]:
    """Yields the leaves that get a gradient from a tensor, except those behind `Shard.shared`."""
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or type(node).__name__.startswith("_Shared"):
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        waiting.extend(following for following, _ in node.next_functions)
