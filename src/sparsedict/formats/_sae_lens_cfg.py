"""What SAELens' configurations say, in every version, and what is written into one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._made import Learned
from sparsedict.formats._tensors import Tensors
from sparsedict.formats._written import refuse
from sparsedict.norms import InputLayerNorm, InputNorm, InputRMSNorm
from sparsedict.storage import StorageError

CFG = "cfg.json"
VERSION = "6.54.12"
"""The version whose layout is written; all of version 6 have it."""

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys of versions before 6, and what they are called since."""

_AT_RUN_TIME: dict[str, InputNorm | None] = {
    "none": None,
    "layer_norm": InputLayerNorm(),
    "constant_norm_rescale": InputRMSNorm(),
}
_BEFORE = {
    "expected_average_only_in": "multiplied by the factor that gives them a mean norm of sqrt(d_in)",
    "covariance_whitening": "whitened",
}
"""What was done to activations outside the autoencoder, and isn't in its files unless it was folded into weights."""


def normalised(cfg: dict[str, Any], file: Path) -> dict[str, Any]:
    """Says what a configuration of any version says as version 6 does."""
    given = cfg.get("metadata")
    metadata = given if isinstance(given, dict) else {}
    cfg = {_RENAMED.get(name, name): value for name, value in cfg.items()}
    kwargs = cfg.get("activation_fn_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    architecture = cfg.get("architecture") or "standard"
    function = str(cfg.get("activation_fn") or "relu").lower()
    if architecture == "standard" and function == "topk":
        architecture = "topk"
    elif architecture == "standard" and function != "relu":
        raise StorageError(f"{file}: `activation_fn` must be relu or topk to be read here, got {function[:80]!r}.")
    if "k" not in cfg and kwargs.get("k") is not None:
        cfg["k"] = kwargs["k"]
    normalise = cfg.get("normalize_activations")
    if normalise is None or isinstance(normalise, bool):
        normalise = "expected_average_only_in" if normalise else "none"
    hook = str(metadata.get("hook_name") or cfg.get("hook_name") or "")
    reshape = cfg.get("reshape_activations") or ("hook_z" if "hook_z" in hook and not metadata else "none")
    known = {"architecture": architecture, "normalize_activations": normalise, "reshape_activations": reshape}
    return cfg | known | {"metadata": metadata}


def input_norm(cfg: dict[str, Any], file: Path) -> InputNorm | None:
    """Returns the normalisation that is done at run time, and warns of one that was done outside.

    Raises:
        StorageError: If there is no such normalisation.
    """
    name = str(cfg["normalize_activations"])
    if name in _AT_RUN_TIME:
        return _AT_RUN_TIME[name]
    if name in _BEFORE:
        warnings.warn(
            f"{file.parent / CFG}: `normalize_activations` is {name!r}: this dictionary was trained on activations "
            f"{_BEFORE[name]}, outside of it, and how isn't in its files. It computes what SAELens' does; give it "
            "activations treated so.",
            stacklevel=4,
        )
        return None
    raise StorageError(
        f"{file.parent / CFG}: `normalize_activations` must be one of {', '.join((*_AT_RUN_TIME, *_BEFORE))}, "
        f"got {name[:80]!r}."
    )


def check_sizes(tensors: Tensors, cfg: dict[str, Any]) -> None:
    """Refuses weights of other widths than the configuration says.

    Raises:
        StorageError: Which width it is.
    """
    sizes = {"d_in": tensors.sizes["d_in"], "d_sae": tensors.sizes["n_latents"]}
    sizes |= {"d_out": tensors.sizes["d_out"]} if "d_out" in tensors.sizes else {}
    for name, found in sizes.items():
        if cfg.get(name) is not None and cfg[name] != found:
            raise StorageError(
                f"{tensors.file}: by {CFG} `{name}` must be {str(cfg[name])[:80]}, but the weights make it {found}."
            )


def dtype(tensors: Tensors, cfg: dict[str, Any], encoder: Tensor, learned: Learned) -> torch.dtype:
    """Returns the wider type of the weights and the configuration, in which the activation is exact."""
    named = made.dtype_named(cfg.get("dtype"), tensors.file.parent / CFG) or encoder.dtype
    wider = torch.promote_types(encoder.dtype, named)
    return wider if learned.is_exact_in_half else torch.promote_types(wider, torch.float32)


def reads_inputs(cfg: dict[str, Any]) -> bool:
    """Whether the activations are what an MLP reads."""
    hook = str(cfg["metadata"].get("hook_name") or cfg.get("hook_name") or "")
    return hook.endswith(("mlp_in", "ln2.hook_normalized"))


def trained_on(cfg: dict[str, Any]) -> dict[str, Any]:
    """Returns what a dictionary remembers of its configuration."""
    about = {**cfg, **cfg["metadata"]}
    known = {"model": about.get("model_name"), "site": about.get("hook_name")}
    return {"library": "SAELens", **{k: v for k, v in known.items() if v is not None}, "cfg": dict(cfg)}


def normalize_activations(norm: InputNorm | None) -> str:
    """Returns SAELens' name of a normalisation.

    Raises:
        ValueError: If it has none.
    """
    for name, known in _AT_RUN_TIME.items():
        if norm == known:
            return name
    has = [str(known) for known in _AT_RUN_TIME.values() if known is not None]
    raise refuse(f"the normalisation {norm}", "SAELens", has)


def metadata(dictionary: Dictionary, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a configuration says of where a dictionary is from; what SAELens has no place for goes there too."""
    trained_on = dictionary.trained_on
    known = {"model_name": trained_on.get("model"), "hook_name": trained_on.get("site")}
    given = kept.get("metadata")
    ours = {"activation": repr(dictionary.activation), "decoder_norm": repr(dictionary.decoder_norm)}
    return {
        **{name: value for name, value in known.items() if value is not None},
        **(given if isinstance(given, dict) else {}),
        # Without a version the configuration would be taken for one from before 6.
        "sae_lens_version": VERSION,
        "sparsedict": ours,
    }
