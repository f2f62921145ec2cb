"""Functions whose nonlinear factor is held: attention patterns, and the denominators of norms.

A model receives copies of held values, since it may change them in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Hold = Callable[[Callable[[], Tensor], Tensor], Tensor]
"""Returns the held value that a function computes. The tensor has the batch size of the present call."""
Handler = Callable[..., Any]


def _whole(function: Callable[..., Any]) -> Handler:
    """Holds the output of a function."""

    def handler(hold: Hold, *args: Any, **kwargs: Any) -> Any:
        return hold(lambda: function(*args, **kwargs), _first(args, kwargs)).clone()

    return handler


def _root(function: Callable[..., Any]) -> Handler:
    """Holds the output of a root if it has one number per vector, like the denominator of a norm."""

    def handler(hold: Hold, *args: Any, **kwargs: Any) -> Any:
        given = _first(args, kwargs)
        return (
            hold(lambda: function(*args, **kwargs), given).clone() if _is_reduced(given) else function(*args, **kwargs)
        )

    return handler


def _power(function: Callable[..., Any]) -> Handler:
    def handler(hold: Hold, *args: Any, **kwargs: Any) -> Any:
        given = _first(args, kwargs)
        exponent = kwargs.get("exponent", args[1] if len(args) > 1 else None)
        is_root = isinstance(exponent, float) and not exponent.is_integer()
        if not (is_root and isinstance(given, Tensor) and _is_reduced(given)):
            return function(*args, **kwargs)
        return hold(lambda: function(*args, **kwargs), given).clone()

    return handler


def _deviation_and_mean(function: Callable[..., Any]) -> Handler:
    def handler(hold: Hold, *args: Any, **kwargs: Any) -> Any:
        deviation, mean = function(*args, **kwargs)
        return hold(lambda: deviation, _first(args, kwargs)).clone(), mean

    return handler


def _cast(function: Callable[..., Any]) -> Handler:
    """Leaves out casts from double to a lower precision, such as those in the norms of Llama."""

    def handler(hold: Hold, *args: Any, **kwargs: Any) -> Any:
        given = args[0]
        found = function(*args, **kwargs)
        is_lower = given.dtype == torch.float64 and found.is_floating_point() and found.dtype != torch.float64
        return given.to(found.device) if is_lower else found

    return handler


def _product(function: Callable[..., Any]) -> Handler:
    """Computes products of double and lower precision in double. `_cast` may have changed only one factor."""

    def handler(hold: Hold, *args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        types = {x.dtype for x in given if isinstance(x, Tensor) and x.is_floating_point()}
        if len(types) == 1 or torch.float64 not in types:
            return function(*args, **kwargs)
        return function(*map(_double, args), **{name: _double(value) for name, value in kwargs.items()})

    return handler


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _layer_norm(
    hold: Hold,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    dims = _dims(normalized_shape)
    centred = input - input.mean(dims, keepdim=True)
    y = centred * hold(lambda: (centred.square().mean(dims, keepdim=True) + eps).rsqrt(), input)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _rms_norm(
    hold: Hold, input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    dims, least = _dims(normalized_shape), torch.finfo(input.dtype).eps if eps is None else eps
    y = input * hold(lambda: (input.square().mean(dims, keepdim=True) + least).rsqrt(), input)
    return y if weight is None else y * weight


def _attention(
    hold: Hold,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        n = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(n, -3), value.repeat_interleave(n, -3)

    def pattern() -> Tensor:
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        # A row without a key, such as that of padding, has weights of zero.
        return scores.softmax(-1).nan_to_num(0.0)

    return hold(pattern, query) @ value


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["input"]


def _is_reduced(x: Tensor) -> bool:
    return x.ndim < 3 or x.shape[-1] == 1


def _dims(shape: Any) -> tuple[int, ...]:
    n = 1 if isinstance(shape, int) else len(shape)
    return tuple(range(-n, 0))


HANDLERS: dict[Callable[..., Any], Handler] = {
    **{f: _whole(f) for f in (functional.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax)},
    **{f: _whole(f) for f in (torch.rsqrt, torch.Tensor.rsqrt, torch.std, torch.Tensor.std)},
    **{f: _whole(f) for f in (torch.norm, torch.Tensor.norm, torch.linalg.norm, torch.linalg.vector_norm)},
    **{f: _root(f) for f in (torch.sqrt, torch.Tensor.sqrt)},
    **{f: _power(f) for f in (torch.pow, torch.Tensor.pow, torch.Tensor.__pow__, torch.float_power)},
    **{f: _cast(f) for f in (torch.Tensor.to, torch.Tensor.float, torch.Tensor.type, torch.Tensor.type_as)},
    **{f: _product(f) for f in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__)},
    **{f: _product(f) for f in (torch.mm, torch.Tensor.mm, torch.bmm, torch.Tensor.bmm, functional.linear)},
    torch.std_mean: _deviation_and_mean(torch.std_mean),
    functional.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    functional.rms_norm: _rms_norm,
    torch.rms_norm: _rms_norm,
    functional.scaled_dot_product_attention: _attention,
}
"""How each function is computed with its nonlinear factor held."""
