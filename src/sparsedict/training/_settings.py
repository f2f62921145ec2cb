"""What a run was asked for, in plain values that two runs can be compared by."""

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

from sparsedict.storage import installed_version
from sparsedict.training._trainee import Trainee
from sparsedict.training._units import RelativeLR

MISSING = object()


def described(value: Any) -> Any:
    """Returns plain values that differ where ``value`` differs: parts by class and fields, tensors by their digest.

    Of an object that has ``state_dict``, the class alone: what it keeps is in the checkpoint itself.
    """
    if isinstance(value, np.generic):
        return described(value.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{value.dtype} {tuple(value.shape)} of SHA-256 {hashlib.sha256(content.data).hexdigest()[:16]}"
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, functools.partial):
        return {"class": _name(value.func), "args": described(value.args), **described(value.keywords)}
    if isinstance(value, type) or inspect.isroutine(value):
        return _name(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    return {"class": _name(type(value)), **_fields(value)}


def _fields(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "state_dict") or not hasattr(value, "__dict__"):
        return {}
    # Of objects within objects the class alone: they may refer to each other in a circle.
    plain = (type(None), bool, int, float, str, Tensor)
    return {
        name: described(item) if isinstance(item, plain) else _name(type(item)) for name, item in vars(value).items()
    }


def _name(value: Any) -> str:
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", type(value).__name__)
    # Where a class lies within the library may change.
    return f"{'sparsedict' if str(module).startswith('sparsedict.') else module}.{name}"


def of_run(
    trainees: Mapping[str, Trainee], optimizers: Mapping[str, torch.optim.Optimizer], data: str, **asked: Any
) -> dict[str, Any]:
    """Returns what decides what comes out of a run, besides the content of weights and data."""
    by_name = {name: _of_trainee(trainee, optimizers[name]) for name, trainee in trainees.items()}
    own = by_name[""] if list(by_name) == [""] else {"trainees": by_name}
    return {"data": data, **{name: described(value) for name, value in asked.items()}, **own}


def _of_trainee(trainee: Trainee, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    dictionary = trainee.dictionary
    groups = [
        {key: described(value) for key, value in group.items() if key not in ("params", "initial_lr")}
        for group in optimizer.param_groups
    ]
    return {
        "dictionary": {
            "class": _name(type(dictionary)),
            **described(dictionary.arguments()),
            "activation": described(dictionary.activation),
            "decoder_norm": described(dictionary.decoder_norm),
            "weights": {
                name: f"{weight.dtype} {tuple(weight.shape)}{'' if weight.requires_grad else ', frozen'}"
                for name, weight in dictionary.named_parameters()
            },
        },
        "optimizer": {"class": _name(type(optimizer)), "groups": groups},
        "lr": trainee.peak_lr,
        **({"relative": True} if isinstance(trainee.lr, RelativeLR) else {}),
        **{
            name: described(getattr(trainee, name))
            for name in ("penalties", "loss", "step_hooks", "schedule", "clip_norm", "site")
        },
    }


RENAMED = {"upkeep": "step_hooks"}
"""Settings of a trainee by their name in version 0.1, with the present name."""


def renamed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run with the names of this version."""
    own = {RENAMED.get(name, name): value for name, value in settings.items()}
    if isinstance(own.get("trainees"), Mapping):
        own["trainees"] = {name: renamed_settings(trainee) for name, trainee in own["trainees"].items()}
    return own


def renamed_paths(states: Mapping[str, Any], trainees: Iterable[str]) -> dict[str, Any]:
    """Returns the states of parts, by their path in a trainee, with the names of this version.

    Args:
        states: By path, such as ``"small.upkeep[0]"`` for a part of the trainee ``"small"``.
        trainees: Names of the trainees.
    """
    prefixes = {f"{name}.{old}[": f"{name}.{new}[" for name in trainees for old, new in RENAMED.items()}
    renamed = {}
    for path, state in states.items():
        old = next((prefix for prefix in prefixes if path.startswith(prefix)), None)
        renamed[path if old is None else prefixes[old] + path[len(old) :]] = state
    return renamed


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yields in words where two descriptions differ."""
    if isinstance(before, dict) and isinstance(now, dict) and before.get("class") == now.get("class"):
        for key in before | now:
            inner = f"{path}.{key}" if path else str(key)
            old, new = before.get(key, MISSING), now.get(key, MISSING)
            # Releases of PyTorch add options to its optimisers, which were at their defaults before.
            if not (path.endswith("]") and ".groups[" in path and MISSING in (old, new)):
                yield from differences(old, new, inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{path}[{index}]")
    elif before != now:
        yield f"`{path}` was {_shown(before)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    if value is MISSING:
        return "not there"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict) and "class" in value:
        fields = ", ".join(f"{key}={_shown(item)}" for key, item in value.items() if key != "class")
        return f"{str(value['class']).rpartition('.')[2]}({fields})"
    return repr(value)


def devices_of(trainees: Mapping[str, Trainee]) -> set[torch.device]:
    """Returns where dictionaries are trained."""
    return {trainee.dictionary.decoder.device for trainee in trainees.values()}


def environment(devices: set[torch.device]) -> dict[str, Any]:
    """Returns what may change how sums are rounded, and with it the last bits of a result."""
    names = {torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"}
    return {
        "sparsedict": installed_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "devices": sorted({device.type for device in devices} | names),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
