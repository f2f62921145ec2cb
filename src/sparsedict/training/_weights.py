"""Whether weights can be trained: their type, where they are, and who else trains them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsedict.dictionaries import Dictionary

TRAINABLE = (torch.float32, torch.float64, torch.bfloat16)


def check_weights(label: str, dictionary: Dictionary) -> None:
    """Raises ``ValueError`` where a dictionary's weights can't be trained as they are.

    Args:
        label: What errors call the dictionary.
        dictionary: The dictionary.
    """
    weights = dict(dictionary.named_parameters())
    _check_equal(label, "device", {name: weight.device for name, weight in weights.items()}, "to(device)")
    shared = ("encoder", "encoder_bias", "decoder", "decoder_bias")
    _check_equal(label, "type", {name: weights[name].dtype for name in shared if name in weights}, "float()")
    for name, weight in weights.items():
        if weight.is_floating_point() and weight.dtype not in TRAINABLE:
            raise ValueError(
                f"`{label}` must have float32 weights to be trained, got {weight.dtype} in `{name}`, where small "
                "updates become zero and large gradients infinite. Call `dictionary.float()`, and pass "
                "`autocast=torch.bfloat16` for products in half precision."
            )
        if weight.is_meta:
            raise ValueError(
                f"`{label}` must have weights in memory, got `{name}` on the meta device. Make it elsewhere."
            )
        if weight.numel() and not bool(torch.linalg.vector_norm(weight.detach(), ord=torch.inf).isfinite()):
            raise ValueError(
                f"`{label}` must have finite weights, got NaN or infinity in `{name}`. Make or load it anew."
            )


def _check_equal(label: str, what: str, found: Mapping[str, object], remedy: str) -> None:
    (usual, _), *others = Counter(found.values()).most_common()
    if others:
        name = next(name for name, value in found.items() if value != usual)
        raise ValueError(
            f"`{label}` must have all weights of one {what}, got {found[name]} for `{name}` and {usual} for others. "
            f"Call `dictionary.{remedy}`."
        )


def check_shared(dictionaries: Mapping[str, Dictionary]) -> None:
    """Raises ``ValueError`` where two dictionaries hold one weight, which each of them would train."""
    held = [
        # Buffers, which activations keep, change in training too.
        (value.device, *_bytes(value), name, key, value.requires_grad or not isinstance(value, nn.Parameter))
        for name, dictionary in dictionaries.items()
        for key, value in dictionary.state_dict(keep_vars=True).items()
        if value.numel()
    ]
    held.sort(key=lambda item: (str(item[0]), item[1]))
    for index, (device, _, end, name, key, trained) in enumerate(held):
        for other_device, other_begin, _, other, other_key, other_trained in held[index + 1 :]:
            if other_device != device or other_begin >= end:
                break
            if other != name and (trained or other_trained):
                raise ValueError(
                    f"`trainees` {name!r} and {other!r} must not share weights, but `{key}` of {name!r} and "
                    f"`{other_key}` of {other!r} are one tensor, which both would train. Give one of them a copy: "
                    f"`dictionary.{other_key} = torch.nn.Parameter(dictionary.{other_key}.detach().clone())`."
                )


def _bytes(value: Tensor) -> tuple[int, int]:
    """Returns the addresses between which a tensor lies."""
    begin = value.data_ptr()
    extent = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return begin, begin + (extent + 1) * value.element_size()
