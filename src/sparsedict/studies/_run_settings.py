"""The complete settings of a run, including defaults and the software environment."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.data import ActivationStream
from sparsedict.sites import Site, Sites
from sparsedict.storage import installed_version
from sparsedict.studies._recipe import Inspection
from sparsedict.training import Trainee

if TYPE_CHECKING:
    from sparsedict.studies._dictionary_result import DictionaryResult
    from sparsedict.studies._joint_decomposition import JointResult

PACKAGES = ("torch", "numpy", "safetensors", "transformers", "tokenizers", "datasets")


def used_settings(
    site: Site | Sites,
    results: Mapping[str, DictionaryResult] | Mapping[str, JointResult],
    stream: ActivationStream,
    trainees: Mapping[str, Trainee],
    inspection: Inspection,
    held_out_tokens: Tensor,
    *,
    model_name: str | None,
    n_tokens: int,
    seed: int,
    autocast: torch.dtype | None,
) -> dict[str, Any]:
    """Returns all settings that determine the results of a site, or of dictionaries of several sites, after training.

    Args:
        site: The site of the MLP, or the sites of all dictionaries.
        results: Results of the dictionaries, by kind.
        stream: Training data.
        trainees: The dictionaries and their training options, by kind.
        inspection: Settings of the measurements.
        held_out_tokens: Tokens of the measurements.
        model_name: Name of the model, or ``None`` for the name in its configuration.
        n_tokens: Requested number of training tokens.
        seed: Seed of the initial weights, the order of the tokens and the latents shown.
        autocast: Type of the matrix products in training, or ``None``.
    """
    first = next(iter(site.values())) if isinstance(site, Sites) else site
    model = first.model
    where = {"sites": list(site)} if isinstance(site, Sites) else {"site": site.name}
    config = getattr(model, "config", None)
    weight = next(model.parameters(), None)
    result = next(iter(results.values()))
    decoder = result.dictionary.decoder
    recipe = {
        **_shared({kind: _recipe(trainee) for kind, trainee in trainees.items()}),
        "batch_size": stream.batch_size,
    }
    return {
        "model": model_name or getattr(config, "name_or_path", "") or type(model).__name__,
        "model_class": type(model).__name__,
        "model_dtype": None if weight is None else _plain(weight.dtype),
        **where,
        "left_out_tokens": list(first.exclusion.tokens),
        "data": result.dictionary.trained_on["data"].replace("; repeated", "; repeated if shorter than the run"),
        "held_out": f"{len(held_out_tokens):,} sequences of {held_out_tokens.shape[1]:,} tokens",
        "n_latents": result.dictionary.n_latents,
        "n_tokens": n_tokens,
        "n_tokens_trained": result.history.n_tokens,
        "n_steps": result.history.n_steps,
        "seed": seed,
        "seed_decides": ["the initial weights", "the order of the tokens", "the latents that are shown"],
        "dtype": _plain(decoder.dtype),
        "autocast": None if autocast is None else _plain(autocast),
        "device": str(decoder.device),
        "recipe": recipe,
        "inspection": inspection.to_dict(),
        "environment": environment(decoder.device),
    }


def environment(device: torch.device | str) -> dict[str, Any]:
    """Returns the package versions and the hardware of a run."""
    device = checks.device("device", device) or torch.device("cpu")
    found = {"sparsedict": installed_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # The version of the PyTorch build is more specific than that of its package.
    found["torch"] = str(torch.__version__)
    is_cuda = device.type == "cuda"
    return {
        "versions": found,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if is_cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


def _recipe(trainee: Trainee) -> dict[str, Any]:
    """Returns the parts of a dictionary and its training options, in the form of code."""
    dictionary, optimizer = trainee.dictionary, trainee.optimizer
    return {
        "activation": repr(dictionary.activation),
        "decoder_norm": repr(dictionary.decoder_norm),
        "skip": bool(dictionary.arguments().get("skip", False)),
        "penalties": [repr(penalty) for penalty in trainee.penalties],
        "loss": repr(trainee.loss),
        "step_hooks": [repr(part) for part in trainee.step_hooks],
        "lr": dictionary.trained_on["lr"],
        "schedule": repr(trainee.schedule),
        "optimizer": "Adam" if optimizer is None else _code_of(optimizer),
        "clip_norm": trainee.clip_norm,
    }


def _code_of(factory: Callable[..., Any]) -> str:
    """Returns the name of a class or function, with the keyword arguments of a partial."""
    if isinstance(factory, partial):
        options = ", ".join(f"{name}={value!r}" for name, value in factory.keywords.items())
        return f"{_code_of(factory.func)}({options})"
    return getattr(factory, "__name__", None) or repr(factory)


def _shared(recipes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns settings that all recipes have in common once, and other settings and the learning rate by recipe."""
    found: dict[str, Any] = {}
    for name in next(iter(recipes.values())):
        values = {kind: recipe[name] for kind, recipe in recipes.items()}
        first = next(iter(values.values()))
        found[name] = first if name != "lr" and all(value == first for value in values.values()) else values
    return found


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
