"""Construction of dictionaries from given weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from sparsedict.activations import Activation
from sparsedict.dictionaries._dictionary import Dictionary
from sparsedict.dictionaries._state import check_is_given, initial_state
from sparsedict.norms import DecoderNorm, InputNorm

Kind = TypeVar("Kind", bound=Dictionary)


def from_weights(
    make: Callable[..., Kind],
    weights: Mapping[str, Tensor | None],
    activation: Activation,
    decoder_norm: DecoderNorm,
    activation_state: Mapping[str, Tensor | float] | None,
    *,
    copy: bool,
    input_norm_state: Mapping[str, Tensor] | None = None,
) -> Kind:
    """Returns a dictionary with these weights, in evaluation mode.

    Args:
        make: Constructor that takes the three widths, the activation, the decoder norm and the dtype.
        weights: ``encoder``, ``decoder`` (latent-major) and optional weights by name; ``None`` for an absent weight.
        activation: How pre-activations become latents.
        decoder_norm: The constraint on decoder rows.
        activation_state: Learned state of the activation by name. Only values that training measures, such as the
            threshold of BatchTopK, and values that the arguments of the activation determine, may be omitted.
        copy: Whether to copy the weights.
        input_norm_state: Measured numbers of the input norm by name.

    Raises:
        TypeError: If a weight isn't a floating-point tensor.
        ValueError: If shapes don't match. The message suggests the transpose where it would match. Also if a learned or
            measured value is missing.
    """
    given = {name: _checked(name, weight, copy) for name, weight in weights.items() if weight is not None}
    n_latents, d_in, d_out = _widths(given)
    encoder = given["encoder"]
    given.setdefault("encoder_bias", encoder.new_zeros(n_latents))
    given.setdefault("decoder_bias", encoder.new_zeros(d_out))
    shapes = {
        "encoder_bias": (n_latents,),
        "decoder_bias": (d_out,),
        "input_bias": (d_in,),
        "skip": (d_out, d_in),
    }
    for name, shape in shapes.items():
        if name in given and tuple(given[name].shape) != shape:
            hint = _transposed(tuple(given[name].shape), shape)
            raise ValueError(f"`{name}` must be of shape {list(shape)}, got {list(given[name].shape)}.{hint}")
    # The meta device avoids drawing and allocating weights that are replaced at once.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        dictionary = make(d_in, d_out, n_latents, activation=activation, decoder_norm=decoder_norm, dtype=encoder.dtype)
    named = {name: value.to(encoder).contiguous() for name, value in given.items()}
    check_is_given(activation, n_latents, activation_state or {})
    state = initial_state(activation, n_latents, encoder, activation_state or {})
    named |= {f"activation_state.{name}": value for name, value in state.items()}
    norm = getattr(dictionary, "input_norm", None)
    named |= _norm_state(norm if isinstance(norm, InputNorm) else None, d_in, encoder, input_norm_state or {})
    dictionary.load_state_dict(named, assign=True)
    return dictionary.eval()


def _norm_state(norm: InputNorm | None, d_in: int, encoder: Tensor, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the numbers of an input norm by the names of their buffers."""
    state = norm.initial_state(d_in) if norm is not None else {}
    for name, value in given.items():
        if name not in state:
            raise ValueError(f"`input_norm_state` must have names among {sorted(state)} for {norm!r}, got {name!r}.")
        if value.shape != state[name].shape:
            raise ValueError(
                f"`input_norm_state[{name!r}]` must be of shape {list(state[name].shape)}, got {list(value.shape)}."
            )
    missing = [name for name in state if name not in given]
    if missing:
        raise ValueError(
            f"`input_norm_state` must contain {', '.join(map(repr, missing))} for {norm!r}, because weights don't "
            "determine its numbers. Pass a tensor of shape [d_in] for each name."
        )
    return {f"input_{name}": value.to(encoder, copy=True) for name, value in given.items()}


def _checked(name: str, weight: object, copy: bool) -> Tensor:
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        got = f"a tensor of {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        hint = " (use `torch.from_numpy`)" if type(weight).__module__ == "numpy" else ""
        raise TypeError(f"`{name}` must be a tensor of floating-point numbers, got {got}{hint}.")
    if not bool(weight.isfinite().all()):
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    return weight.detach().clone() if copy else weight.detach()


def _widths(given: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Returns the number of latents and both widths."""
    for name in ("encoder", "decoder"):
        if given[name].ndim != 2 or 0 in given[name].shape:
            d = "d_in" if name == "encoder" else "d_out"
            raise ValueError(f"`{name}` must be of shape [n_latents, {d}], got {list(given[name].shape)}.")
    encoder, decoder = tuple(given["encoder"].shape), tuple(given["decoder"].shape)
    bias = given.get("encoder_bias")
    if bias is not None and bias.ndim == 1:
        for name, shape in (("encoder", encoder), ("decoder", decoder)):
            if shape[0] != len(bias):
                hint = " Its transpose would fit: pass `.T`." if shape[1] == len(bias) else ""
                raise ValueError(
                    f"`{name}` must have one row for each latent, {len(bias)} by `encoder_bias`, got shape "
                    f"{list(shape)}.{hint}"
                )
    if encoder[0] != decoder[0]:
        fits = [encoder[1] == decoder[0], decoder[1] == encoder[0]]
        hints = {
            (True, False): " The transpose of `encoder` would fit: pass `.T`.",
            (False, True): " The transpose of `decoder` would fit: pass `.T`.",
            (
                True,
                True,
            ): " The transpose of one of them would fit: pass `.T` of the one whose columns are the latents.",
        }
        raise ValueError(
            f"`encoder` and `decoder` must have one row for each latent, got shapes {list(encoder)} and "
            f"{list(decoder)}.{hints.get((fits[0], fits[1]), '')}"
        )
    return encoder[0], encoder[1], decoder[1]


def _transposed(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return " Its transpose would fit: pass `.T`." if shape[::-1] == wanted and shape != wanted else ""
