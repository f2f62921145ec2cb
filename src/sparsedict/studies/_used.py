"""What a run used: the settings of its results, none of them a default that is yet to be looked up."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsedict.data import ActivationStream
from sparsedict.sites import Site
from sparsedict.storage import installed_version
from sparsedict.studies._recipe import Inspection, Recipe

if TYPE_CHECKING:
    from sparsedict.studies._dictionary_result import DictionaryResult

PACKAGES = ("torch", "numpy", "safetensors", "transformers", "tokenizers", "datasets")


def used_settings(
    site: Site,
    results: Mapping[str, DictionaryResult],
    stream: ActivationStream,
    recipe: Recipe,
    inspection: Inspection,
    *,
    model_name: str | None,
    n_tokens: int,
    seed: int,
    autocast: torch.dtype | None,
    held_out_tokens: Tensor,
) -> dict[str, Any]:
    """Returns all that decided the results of one site, after the training.

    Args:
        site: Where the MLP is.
        results: Of its dictionaries, by kind.
        stream: What they were trained on.
        recipe: What they are made of.
        inspection: What was measured.
        model_name: What to call the model; ``None`` for what it calls itself.
        n_tokens: Tokens that the training was asked for.
        seed: Of the initial weights, the shuffle and the latents shown.
        autocast: Type in which training computed products, or ``None``.
        held_out_tokens: What was measured on.
    """
    config = getattr(site.model, "config", None)
    weight = next(site.model.parameters(), None)
    result = next(iter(results.values()))
    decoder = result.dictionary.decoder
    used = {**recipe.to_dict(), "batch_size": stream.batch_size}
    used["lr"] = {kind: each.dictionary.trained_on["lr"] for kind, each in results.items()}
    used["optimizer"] = used["optimizer"] or "Adam"
    return {
        "model": model_name or getattr(config, "name_or_path", "") or type(site.model).__name__,
        "model_class": type(site.model).__name__,
        "model_dtype": None if weight is None else _plain(weight.dtype),
        "site": site.name,
        "left_out_tokens": list(site.exclusion.tokens),
        "data": result.dictionary.trained_on["data"],
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
        "recipe": used,
        "inspection": inspection.to_dict(),
        "environment": environment(decoder.device),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Returns the versions and the machine that a run used."""
    found = {"sparsedict": installed_version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # A build of PyTorch says more of itself than its package does.
    found["torch"] = str(torch.__version__)
    is_cuda = device.type == "cuda"
    return {
        "versions": found,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if is_cuda else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
