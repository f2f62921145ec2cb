"""Checks that weights can be trained: their type, device, values, and sharing between dictionaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsedict.dictionaries import Dictionary

TRAINABLE = (torch.float32, torch.float64, torch.bfloat16)


def check_weights(label: str, dictionary: Dictionary) -> None:
    """Raises ``ValueError`` if the weights of a dictionary can't be trained.

    Args:
        label: Name of the dictionary in error messages.
        dictionary: The dictionary.
    """
    weights = dict(dictionary.named_parameters())
    _check_equal(label, "device", {name: weight.device for name, weight in weights.items()}, "to(device)")
    shared = ("encoder", "encoder_bias", "decoder", "decoder_bias")
    _check_equal(label, "type", {name: weights[name].dtype for name in shared if name in weights}, "float()")
    for name, weight in weights.items():
        if weight.is_floating_point() and weight.dtype not in TRAINABLE:
            raise ValueError(
                f"`{label}` must have float32 weights for training, got {weight.dtype} in `{name}`. In this type "
                "small updates become zero and large gradients become infinite. Call `dictionary.float()`, and pass "
                "`autocast=torch.bfloat16` for matrix products in half precision."
            )
        if weight.is_meta:
            raise ValueError(
                f"`{label}` must have weights in memory, got `{name}` on the meta device. Construct the dictionary on "
                "the CPU or a GPU."
            )
        if not is_finite(weight):
            raise ValueError(
                f"`{label}` must have finite weights, got NaN or infinity in `{name}`. Construct or load the "
                "dictionary again."
            )


def is_finite(weight: Tensor) -> bool:
    """Returns whether no value is NaN or infinite, without a temporary array."""
    if not weight.numel():
        return True
    # NaN counts as an extreme value. On a CPU, the maximum norm takes fifty times as long.
    least, largest = weight.detach().aminmax()
    return bool(least.isfinite() & largest.isfinite())


def _check_equal(label: str, what: str, found: Mapping[str, object], remedy: str) -> None:
    (usual, _), *others = Counter(found.values()).most_common()
    if others:
        name = next(name for name, value in found.items() if value != usual)
        raise ValueError(
            f"`{label}` must have all weights of one {what}, got {found[name]} for `{name}` and {usual} for the other "
            f"weights. Call `dictionary.{remedy}`."
        )


def check_shared(dictionaries: Mapping[str, Dictionary]) -> None:
    """Raises ``ValueError`` if two dictionaries share a weight that training would change."""
    held = [
        # Buffers of activations also change during training.
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
                    f"`{other_key}` of {other!r} are one tensor, which both would train. Copy it in one of them: "
                    f"`dictionary.{other_key} = torch.nn.Parameter(dictionary.{other_key}.detach().clone())`."
                )


def _bytes(value: Tensor) -> tuple[int, int]:
    """Returns the first and the last address of a tensor in memory."""
    begin = value.data_ptr()
    extent = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return begin, begin + (extent + 1) * value.element_size()
