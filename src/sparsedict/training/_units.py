"""Learning rates in units of the data: training doesn't depend on how large activations are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary


@dataclass(frozen=True)
class RelativeLR:
    """A learning rate in units of the data, as the default rate is one.

    Each parameter moves by about the rate times its unit in a step of Adam (``Dictionary.parameter_units``), so that
    activations a thousand times as large give the same dictionary, a thousand times as large. A plain number is the
    optimiser's rate for every parameter instead. The two agree where the spread of inputs and targets is 1.

    Args:
        lr: The rate.

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
    """Units of a dictionary's parameters, and of its loss.

    Attributes:
        parameters: Of each parameter, by name.
        loss: Of the squared error.
    """

    parameters: Mapping[str, float]
    loss: float

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"parameters": dict(self.parameters), "loss": self.loss}

    def scale_(self, optimizer: torch.optim.Optimizer, dictionary: Dictionary) -> None:
        """Divides an optimiser's groups by unit, and gives each its rate, ``eps`` and weight decay in these units.

        A new optimiser is expected. Groups without an ``eps`` are left as they are, for their optimiser doesn't
        normalise gradients as Adam does.
        """
        names = {id(parameter): name for name, parameter in dictionary.named_parameters()}
        groups: list[dict[str, Any]] = []
        for group in optimizer.param_groups:
            if "eps" not in group:
                groups.append(group)
                continue
            by_unit: dict[float, list[Tensor]] = {}
            for parameter in group["params"]:
                by_unit.setdefault(self.parameters.get(names.get(id(parameter), ""), 1.0), []).append(parameter)
            groups += [self._scaled(group, parameters, unit) for unit, parameters in by_unit.items()]
        optimizer.param_groups[:] = groups

    def _scaled(self, group: dict[str, Any], parameters: list[Tensor], unit: float) -> dict[str, Any]:
        slope = self.loss / unit
        scaled = {**group, "params": parameters, "lr": group["lr"] * unit, "eps": group["eps"] * slope}
        if group.get("weight_decay"):
            # Added to the gradient, or a share of the weight for each unit of the rate.
            own = unit if group.get("decoupled_weight_decay") else unit / slope
            scaled["weight_decay"] = group["weight_decay"] / own
        return scaled

    def clip_gradients_(self, dictionary: Dictionary, most: float) -> None:
        """Shortens all gradients together to a norm of ``most``, each measured in units of the loss over its own."""
        named = [(name, p.grad) for name, p in dictionary.named_parameters() if p.grad is not None]
        norms = [grad.norm() * (self.parameters.get(name, 1.0) / self.loss) for name, grad in named]
        factor = (most / (torch.stack(norms).norm() + 1e-6)).clamp_max(1.0)
        for _, grad in named:
            grad.mul_(factor)


def measured_units(dictionary: Dictionary, inputs: Tensor, targets: Tensor) -> Units:
    """Measures the units of a dictionary on its first tokens."""
    scales = dictionary.scales(inputs, targets)
    units = dictionary.parameter_units(scales)
    return Units({name: units.get(name, 1.0) for name, _ in dictionary.named_parameters()}, scales.targets**2)


def units_from(state: Mapping[str, Any] | None) -> Units | None:
    """Returns the units that gave this state."""
    return None if state is None else Units(dict(state["parameters"]), state["loss"])
