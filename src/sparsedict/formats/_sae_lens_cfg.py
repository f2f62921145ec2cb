"""Reading and writing of SAELens configurations, of all versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _build as build
from sparsedict.formats._build import LoadedActivation
from sparsedict.formats._export import is_trained_here, unsupported, warn_of_unknown
from sparsedict.formats._lens_names import (
    check_hook,
    check_model_name,
    hook_names,
    is_hook_name,
    is_of_bridge,
    model_name,
    norm_before,
)
from sparsedict.formats._tensors import Tensors
from sparsedict.norms import InputLayerNorm, InputNorm, InputRMSNorm
from sparsedict.storage import StorageError

CFG = "cfg.json"
VERSION = "6.54.12"
"""SAELens version of the layout that is written. It is the same for all of version 6."""

_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Keys of versions before 6, with their names in version 6."""

_AT_RUN_TIME: dict[str, InputNorm | None] = {
    "none": None,
    "layer_norm": InputLayerNorm(),
    "constant_norm_rescale": InputRMSNorm(),
}
_OUTSIDE = {
    "expected_average_only_in": "multiplied by the factor that gives them a mean norm of sqrt(d_in)",
    "covariance_whitening": "whitened",
}
"""Normalisations that SAELens applies outside the autoencoder. The files contain them only if folded into weights."""


def as_version_6(cfg: dict[str, Any], file: Path) -> dict[str, Any]:
    """Converts a configuration of any version to the keys and values of version 6."""
    given = cfg.get("metadata")
    metadata = given if isinstance(given, dict) else {}
    cfg = {_RENAMED.get(name, name): value for name, value in cfg.items()}
    kwargs = cfg.get("activation_fn_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    architecture = cfg.get("architecture") or "standard"
    if architecture == "standard" and not cfg.get("activation_fn") and (cfg.get("k") or kwargs.get("k")):
        raise StorageError(
            f"{file} must contain `activation_fn`, because it contains `k` and could mean TopK or ReLU. Add "
            '`"activation_fn": "topk"` or `"activation_fn": "relu"` to the file.'
        )
    function = str(cfg.get("activation_fn") or "relu").lower()
    if architecture == "standard" and function == "topk":
        architecture = "topk"
    elif architecture == "standard" and function != "relu":
        raise StorageError(f"{file}: `activation_fn` must be relu or topk, got {function[:80]!r}.")
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
    """Returns the normalisation at run time, and warns about a normalisation outside of the autoencoder.

    Raises:
        StorageError: If the normalisation isn't supported.
    """
    name = str(cfg["normalize_activations"])
    if name in _AT_RUN_TIME:
        return _AT_RUN_TIME[name]
    if name in _OUTSIDE:
        checks.warn(
            f"{file.parent / CFG}: `normalize_activations` is {name!r}. The dictionary was trained on activations that "
            f"were {_OUTSIDE[name]} before the autoencoder, and the files don't contain this normalisation. Normalise "
            "the activations in the same way before you encode them."
        )
        return None
    raise StorageError(
        f"{file.parent / CFG}: `normalize_activations` must be one of {', '.join((*_AT_RUN_TIME, *_OUTSIDE))}, "
        f"got {name[:80]!r}."
    )


def check_sizes(tensors: Tensors, cfg: dict[str, Any]) -> None:
    """Checks that the widths of the weights agree with the configuration.

    Raises:
        StorageError: If a width differs.
    """
    sizes = {"d_in": tensors.sizes["d_in"], "d_sae": tensors.sizes["n_latents"]}
    sizes |= {"d_out": tensors.sizes["d_out"]} if "d_out" in tensors.sizes else {}
    for name, found in sizes.items():
        if cfg.get(name) is not None and cfg[name] != found:
            raise StorageError(
                f"{tensors.file}: `{name}` must be {str(cfg[name])[:80]} as in {CFG}, got {found} in the weights."
            )


def dtype(tensors: Tensors, cfg: dict[str, Any], encoder: Tensor, loaded: LoadedActivation) -> torch.dtype:
    """Returns the wider type of weights and configuration, at least float32 for activations with thresholds."""
    named = build.dtype_named(cfg.get("dtype"), tensors.file.parent / CFG) or encoder.dtype
    wider = torch.promote_types(encoder.dtype, named)
    return wider if loaded.is_exact_in_half else torch.promote_types(wider, torch.float32)


def reads_inputs(cfg: dict[str, Any]) -> bool:
    """Returns whether the dictionary reads the input of an MLP."""
    hook = str(cfg["metadata"].get("hook_name") or cfg.get("hook_name") or "")
    return hook.endswith(("mlp_in", "ln2.hook_normalized"))


def trained_on(cfg: dict[str, Any]) -> dict[str, Any]:
    """Returns ``trained_on`` of a dictionary from its configuration."""
    about = {**cfg, **cfg["metadata"]}
    known = {"model": about.get("model_name"), "site": _site(about)}
    return {"library": "SAELens", **{k: v for k, v in known.items() if v is not None}, "cfg": dict(cfg)}


def _site(about: Mapping[str, Any]) -> Any:
    hook, out = about.get("hook_name"), about.get("hook_name_out")
    return f"{hook} -> {out}" if hook and out and out != hook else hook


def normalize_activations(norm: InputNorm | None) -> str:
    """Returns the name of a normalisation in SAELens.

    Raises:
        ValueError: If SAELens doesn't have this normalisation.
    """
    for name, known in _AT_RUN_TIME.items():
        if norm == known:
            return name
    has = [str(known) for known in _AT_RUN_TIME.values() if known is not None]
    raise unsupported(f"the normalisation {norm}", "SAELens", has)


@dataclass(frozen=True)
class GivenMetadata:
    """The metadata arguments of `write`.

    Attributes:
        model_name: Name of the model.
        hook_name: The hook that the dictionary reads.
        hook_name_out: The hook that a transcoder writes.
        others: Other entries of the metadata.
    """

    model_name: str | None = None
    hook_name: str | None = None
    hook_name_out: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def check(self, is_distiller: bool) -> None:
        """Raises ``TypeError`` or ``ValueError`` for an invalid argument."""
        named = self.by_name()
        if named.get("model_name") is not None:
            check_model_name("model_name", named["model_name"])
        for name in ("hook_name", "hook_name_out"):
            if named.get(name) is not None:
                check_hook(name, named[name], within_block=False)
        if not is_distiller and named.get("hook_name_out") is not None:
            raise ValueError("`hook_name_out` must be left out for an autoencoder, which reads and writes one hook.")
        try:
            json.dumps(named, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`metadata` must be serialisable as JSON: {error}.") from None

    def by_name(self) -> dict[str, Any]:
        """Returns the given values by their key in the metadata."""
        named = {name: getattr(self, name) for name in ("model_name", "hook_name", "hook_name_out")}
        return dict(self.others) | {name: value for name, value in named.items() if value is not None}


_MODEL_KEYS = ("model_name", "model_class_name", "model_from_pretrained_kwargs")
_HOOK_KEYS = ("hook_name", "hook_name_out", "hook_head_index", "hf_hook_name")
_DATA_KEYS = ("dataset_path", "dataset_trust_remote_code", "sae_lens_training_version")
_TOKEN_KEYS = ("prepend_bos", "context_size", "seqpos_slice", "exclude_special_tokens")

_UNPROCESSED = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False}
"""Arguments with which TransformerLens loads a model without changing its activations."""


def metadata(dictionary: Dictionary, kept: Mapping[str, Any], given: GivenMetadata) -> dict[str, Any]:
    """Returns the metadata of a configuration, including properties that SAELens has no key for.

    Metadata of the file that the dictionary was read from is kept if it is still valid. Measurements such as L0 and the
    number of dead latents are left out.
    """
    examples = {"model_name": "gpt2", "hook_name": "blocks.1.hook_mlp_out"}
    if dictionary.reads != dictionary.writes:
        examples = {"model_name": "gpt2", "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    found = _derived_metadata(dictionary) | _valid_metadata(dictionary, kept) | given.by_name()
    warn_of_unknown(
        {name: example for name, example in examples.items() if not found.get(name)},
        "SAELens skips a dictionary without a hook and reports the original loss, and it can't load an unnamed model",
    )
    hooks = [name for name in ("hook_name", "hook_name_out") if name in examples and name not in given.by_name()]
    _warn_of_bridge({name: str(found.get(name)) for name in hooks})
    ours = {"activation": repr(dictionary.activation), "decoder_norm": repr(dictionary.decoder_norm)}
    site = {"site": str(dictionary.trained_on["site"])} if "site" in dictionary.trained_on else {}
    # SAELens reads a configuration without a version as one of a version before 6.
    return {**found, "sae_lens_version": VERSION, "sparsedict": ours | site}


def _warn_of_bridge(derived: Mapping[str, Any]) -> None:
    """Warns about hooks that ``HookedSAETransformer`` lacks. It skips such dictionaries without an error."""
    for name, hook in derived.items():
        if not is_of_bridge(hook):
            continue
        norm = norm_before(hook)
        nearest = (
            f" Its nearest hook is {norm!r}, which equals the MLP's input only in TransformerLens 2 with layer norms "
            "and unprocessed weights."
        )
        checks.warn(
            f"`{name}` is written as {hook!r}, a hook of SAETransformerBridge. HookedSAETransformer has no hook of "
            f"this name, so it skips the dictionary and reports the original loss.{nearest if norm else ''} Pass "
            f"`{name}=` to choose a hook."
        )


def _derived_metadata(dictionary: Dictionary) -> dict[str, Any]:
    """Returns the metadata that follows from ``dictionary.trained_on``."""
    trained_on = dictionary.trained_on
    hook, hook_out = hook_names(trained_on, dictionary.reads, dictionary.writes)
    known: dict[str, Any] = {"model_name": model_name(trained_on), "hook_name": hook}
    known |= {"hook_name_out": hook_out} if dictionary.reads != dictionary.writes else {}
    # TransformerLens may have processed the weights of a model that was trained on at one of its hooks.
    is_of_lens = is_hook_name(str(trained_on.get("site", "")))
    known["model_from_pretrained_kwargs"] = {} if is_of_lens else dict(_UNPROCESSED)
    return {name: value for name, value in known.items() if value is not None}


def _valid_metadata(dictionary: Dictionary, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of the original metadata that are still valid for the dictionary."""
    file = kept.get("metadata")
    if not isinstance(file, dict):
        return {}
    about = {**kept, **file}
    trained_on = dictionary.trained_on
    names: set[str] = set(_TOKEN_KEYS)
    names |= set(_MODEL_KEYS) if trained_on.get("model") == about.get("model_name") else set()
    names |= set(_HOOK_KEYS) if trained_on.get("site") == _site(about) else set()
    names |= set() if is_trained_here(dictionary) else set(_DATA_KEYS)
    return {name: value for name, value in about.items() if name in names and value is not None}
