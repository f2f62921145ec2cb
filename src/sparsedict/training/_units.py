"""`RelativeLR`, a learning rate in units of the data, which makes training independent of the scale of activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, Scales

SMALLER, LARGER = 1e6, 1e2
"""Factors by which single gradients are smaller or larger than a typical one. Adam keeps a thousandth of a square."""


@dataclass(frozen=True)
class RelativeLR:
    """A learning rate in units of the data. The default learning rate is relative.

    In a step of Adam, each parameter moves by about the rate times the unit of the parameter
    (``Dictionary.parameter_units``). Activations that are 1,000 times as large therefore give the same dictionary,
    scaled by 1,000. In contrast, a plain number is used as the rate of every parameter. Both are equivalent if inputs
    and targets have a spread of 1.

    Args:
        lr: Learning rate in units of the data.

    Example:
        >>> import torch, sparsedict as sd
        >>> coder = sd.SparseAutoencoder(8, 32, activation=sd.TopK(4), decoder_norm=sd.UnitNorm())
        >>> lr = sd.training.RelativeLR(2 * sd.training.default_lr(coder))
        >>> history = sd.fit(coder, 1000 * torch.randn(512, 8), n_tokens=1024, lr=lr, progress=False)
    """

    lr: float

    def __post_init__(self) -> None:
        checks.set_in_range(self, "lr", 0.0, open_low=True)


@dataclass(frozen=True)
class Units:
    """The units of the parameters of a dictionary and of its loss.

    Attributes:
        parameters: Unit of each parameter, by name.
        loss: Unit of the squared error.
    """

    parameters: Mapping[str, float]
    loss: float

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None) -> Units | None:
        """Returns the units that a checkpoint stores as a dictionary, or ``None`` if it stores none."""
        return None if state is None else cls(dict(state["parameters"]), state["loss"])

    def scale_(self, optimizer: torch.optim.Optimizer, dictionary: Dictionary) -> None:
        """Splits the parameter groups of a new optimiser by unit, and scales learning rate, ``eps`` and weight decay.

        Groups without a number ``eps`` stay unchanged, because their optimiser doesn't normalise gradients like Adam.
        """
        names = {id(parameter): name for name, parameter in dictionary.named_parameters()}
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            if not isinstance(group.get("eps"), int | float):  # Adafactor has a tuple of two
                groups.append(group)
                continue
            by_unit: dict[float, list[Tensor]] = {}
            for parameter in group["params"]:
                by_unit.setdefault(self.parameters.get(names.get(id(parameter), ""), 1.0), []).append(parameter)
            # Groups of AdamW have the flag since PyTorch 2.7.
            decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
            groups += [self._scaled(group, parameters, unit, decoupled) for unit, parameters in by_unit.items()]
        optimizer.param_groups[:] = groups

    def _scaled(self, group: dict[str, Any], parameters: list[Tensor], unit: float, decoupled: bool) -> dict[str, Any]:
        slope = self.loss / unit
        scaled = {**group, "params": parameters, "lr": group["lr"] * unit, "eps": group["eps"] * slope}
        if group.get("weight_decay"):
            # Decoupled decay is a share of the weight per unit of the rate. Otherwise it is added to the gradient.
            own = unit if decoupled else unit / slope
            scaled["weight_decay"] = group["weight_decay"] / own
        return scaled

    def clip_gradients_(self, dictionary: Dictionary, max_norm: float) -> None:
        """Clips the norm of all gradients to ``max_norm``, each in units of the loss over the parameter's unit."""
        named = [(name, p, p.grad) for name, p in dictionary.named_parameters() if p.grad is not None]
        norms = [grad.norm() * (self.parameters.get(name, 1.0) / self.loss) for name, _, grad in named]
        if dictionary.shard is None:
            norm = torch.stack(norms).norm()
        else:
            norm = dictionary.shard.norm(zip([p for _, p, _ in named], norms, strict=True))
        factor = (max_norm / (norm + 1e-6)).clamp_max(1.0)
        for _, _, grad in named:
            grad.mul_(factor)


def measure_units(dictionary: Dictionary, inputs: Tensor, targets: Tensor) -> Units:
    """Returns the units of a dictionary, measured on its first tokens.

    Raises:
        ValueError: If the activations are so large or so small that squared gradients overflow or underflow.
    """
    scales = dictionary.scales(inputs, targets)
    given = dictionary.parameter_units(scales)
    units = Units({name: given.get(name, 1.0) for name, _ in dictionary.named_parameters()}, scales.targets**2)
    for name, parameter in dictionary.named_parameters():
        if parameter.requires_grad:
            _check_squares(name, units.loss / units.parameters[name], parameter.dtype, scales)
    return units


def _check_squares(name: str, slope: float, dtype: torch.dtype, scales: Scales) -> None:
    """Raises ``ValueError`` if Adam can't store the squares of gradients.

    Args:
        name: Name of the parameter.
        slope: Typical size of its gradient.
        dtype: Type of the parameter.
        scales: The scales of the activations.
    """
    limits = torch.finfo(dtype)
    low, high = limits.tiny**0.5 * SMALLER, limits.max**0.5 / LARGER
    if low <= slope <= high:
        return
    size, factor = ("small", "large") if slope < low else ("large", "small")
    raise ValueError(
        f"`data` must have a scale at which squared gradients are numbers of {dtype}, but the gradients of `{name}` "
        f"are about {slope:.1g}, too {size}: the spread of the inputs is {scales.inputs:.3g} and that of the targets "
        f"{scales.targets:.3g}. Multiply the activations by a {factor} number, so that their spread is about 1, or "
        "train a float64 dictionary."
    )
