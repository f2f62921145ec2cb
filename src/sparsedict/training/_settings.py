"""The settings of a run as plain values, and their comparison with the settings in a checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedict.parallel import Parallel
from sparsedict.storage import installed_version
from sparsedict.training._trainee import DefaultLR, Trainee
from sparsedict.training._units import RelativeLR

MISSING = object()


class Description(dict[str, Any]):
    """The description of an object, with the descriptions of the defaults of its fields.

    A run of an earlier version has no values of fields that were added since. Their defaults keep its behaviour.
    """

    def __init__(self, content: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.defaults: Mapping[str, Any] = defaults


def describe(value: Any) -> Any:
    """Returns plain values that identify ``value``: parts by class and fields, tensors by their digest.

    An object with a ``state_dict`` is described by its class only, because the checkpoint contains its state.
    """
    if isinstance(value, np.generic):
        return describe(value.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{value.dtype} {tuple(value.shape)} of SHA-256 {hashlib.sha256(content.data).hexdigest()[:16]}"
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, functools.partial):
        return {"class": _qualified_name(value.func), "args": describe(value.args), **describe(value.keywords)}
    if isinstance(value, type) or inspect.isroutine(value):
        return _qualified_name(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, Parallel):
        # Each rank has another number, and any number of ranks can resume a run.
        return "Parallel"
    return Description({"class": _qualified_name(type(value)), **_fields(value)}, _defaults(value))


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "state_dict") or not hasattr(value, "__dict__"):
        return {}
    # Nested objects are described by their class only, because they may refer to each other in a cycle.
    plain = (type(None), bool, int, float, str, Tensor)
    return {
        name: describe(item) if isinstance(item, plain) else _qualified_name(type(item))
        for name, item in vars(value).items()
    }


def _defaults(value: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(value):
        return {}
    fields = dataclasses.fields(value)
    return {field.name: describe(field.default) for field in fields if field.default is not dataclasses.MISSING}


def _qualified_name(value: Any) -> str:
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", type(value).__name__)
    # The module of a class within the library may change between versions.
    return f"{'sparsedict' if str(module).startswith('sparsedict.') else module}.{name}"


def run_settings(
    trainees: Mapping[str, Trainee], optimizers: Mapping[str, torch.optim.Optimizer], data: str, **options: Any
) -> dict[str, Any]:
    """Returns the settings that determine the result of a run, besides the contents of weights and data."""
    by_name = {name: _trainee_settings(trainee, optimizers[name]) for name, trainee in trainees.items()}
    own = by_name[""] if list(by_name) == [""] else {"trainees": by_name}
    return {"data": data, **{name: describe(value) for name, value in options.items()}, **own}


def _trainee_settings(trainee: Trainee, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    dictionary = trainee.dictionary
    groups = [
        {key: describe(value) for key, value in group.items() if key not in ("params", "initial_lr")}
        for group in optimizer.param_groups
    ]
    return {
        "dictionary": {
            "class": _qualified_name(type(dictionary)),
            **describe(dictionary.arguments()),
            "activation": describe(dictionary.activation),
            "decoder_norm": describe(dictionary.decoder_norm),
            "weights": {
                name: f"{weight.dtype} {tuple(weight.shape)}{'' if weight.requires_grad else ', frozen'}"
                for name, weight in dictionary.named_parameters()
            },
        },
        "optimizer": {"class": _qualified_name(type(optimizer)), "groups": groups},
        "lr": trainee.peak_lr,
        **({"relative": True} if isinstance(trainee.lr, RelativeLR | DefaultLR) else {}),
        **{
            name: describe(getattr(trainee, name))
            for name in ("penalties", "loss", "step_hooks", "schedule", "clip_norm", "site")
        },
    }


RENAMED = {"upkeep": "step_hooks"}
"""Present name of each setting of a trainee that had another name in version 0.1."""


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run, with names of version 0.1 replaced by present names."""
    own = {RENAMED.get(name, name): value for name, value in settings.items()}
    if isinstance(own.get("trainees"), Mapping):
        own["trainees"] = {name: renamed_settings(trainee) for name, trainee in own["trainees"].items()}
    return own


def renamed_paths(states: Mapping[str, Any], trainees: Iterable[str]) -> dict[str, Any]:
    """Returns the states of parts by path, with names of version 0.1 replaced by present names.

    Args:
        states: States by path, such as ``"small.upkeep[0]"`` for a part of the trainee ``"small"``.
        trainees: Names of the trainees.
    """
    prefixes = {f"{name}.{old}[": f"{name}.{new}[" for name in trainees for old, new in RENAMED.items()}
    renamed = {}
    for path, state in states.items():
        old = next((prefix for prefix in prefixes if path.startswith(prefix)), None)
        renamed[path if old is None else prefixes[old] + path[len(old) :]] = state
    return renamed


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yields a phrase for each difference between two descriptions."""
    if isinstance(before, dict) and isinstance(now, dict) and before.get("class") == now.get("class"):
        for key in before | now:
            inner = f"{path}.{key}" if path else str(key)
            old, new = before.get(key, MISSING), now.get(key, MISSING)
            # New PyTorch releases add optimiser options, whose defaults equal the former behaviour.
            is_new_option = path.endswith("]") and ".groups[" in path and MISSING in (old, new)
            is_new_field = old is MISSING and isinstance(now, Description) and new == now.defaults.get(key, MISSING)
            if not (is_new_option or is_new_field):
                yield from differences(old, new, inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{path}[{index}]")
    elif before != now:
        yield f"`{path}` was {_format(before)} and is {_format(now)}"


def _format(value: Any) -> str:
    if value is MISSING:
        return "absent"
    if isinstance(value, list):
        return f"[{', '.join(map(_format, value))}]"
    if isinstance(value, dict) and "class" in value:
        fields = ", ".join(f"{key}={_format(item)}" for key, item in value.items() if key != "class")
        return f"{str(value['class']).rpartition('.')[2]}({fields})"
    return repr(value)


def devices_of(trainees: Mapping[str, Trainee]) -> set[torch.device]:
    """Returns the devices of all dictionaries."""
    return {trainee.dictionary.decoder_bias.device for trainee in trainees.values()}


def environment(devices: set[torch.device], n_ranks: int = 1) -> dict[str, Any]:
    """Returns the versions, thread count and hardware that may change rounding, and so the last bits of a result."""
    names = {torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"}
    return {
        "sparsedict": installed_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "devices": sorted({device.type for device in devices} | names),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **({"ranks": n_ranks} if n_ranks > 1 else {}),
    }
