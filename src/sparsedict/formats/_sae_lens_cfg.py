"""What SAELens' configurations say, in every version, and what is written into one."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsedict.dictionaries import Dictionary
from sparsedict.formats import _made as made
from sparsedict.formats._lens_names import MLP_IN, check_hook, check_model_name, hook_names, is_hook_name, model_name
from sparsedict.formats._made import Learned
from sparsedict.formats._tensors import Tensors
from sparsedict.formats._written import is_trained_here, refuse, warn_of_unknown
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
    if architecture == "standard" and not cfg.get("activation_fn") and (cfg.get("k") or kwargs.get("k")):
        raise StorageError(
            f'{file} has a `k`, as a TopK has, and names no activation. Add `"activation_fn": "topk"` to it, or '
            '`"relu"` where that is meant.'
        )
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
    known = {"model": about.get("model_name"), "site": _site(about)}
    return {"library": "SAELens", **{k: v for k, v in known.items() if v is not None}, "cfg": dict(cfg)}


def _site(about: Mapping[str, Any]) -> Any:
    hook, out = about.get("hook_name"), about.get("hook_name_out")
    return f"{hook} -> {out}" if hook and out and out != hook else hook


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


@dataclass(frozen=True)
class Given:
    """What the caller of `write` says of where a dictionary belongs.

    Attributes:
        model_name: Name of the model.
        hook_name: The hook that it reads.
        hook_name_out: The hook that a transcoder writes.
        others: Other keys of the metadata.
    """

    model_name: str | None = None
    hook_name: str | None = None
    hook_name_out: str | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def check(self, is_distiller: bool) -> None:
        """Raises ``TypeError`` or ``ValueError`` where an argument can't be meant."""
        named = self.by_name()
        if named.get("model_name") is not None:
            check_model_name("model_name", named["model_name"])
        for name in ("hook_name", "hook_name_out"):
            if named.get(name) is not None:
                check_hook(name, named[name], within_block=False)
        if not is_distiller and named.get("hook_name_out") is not None:
            raise ValueError("`hook_name_out` must be left out for an autoencoder: it writes where it reads.")
        try:
            json.dumps(named, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`metadata` must hold what JSON can: {error}.") from None

    def by_name(self) -> dict[str, Any]:
        """Returns what is given, by its key in the metadata."""
        named = {name: getattr(self, name) for name in ("model_name", "hook_name", "hook_name_out")}
        return dict(self.others) | {name: value for name, value in named.items() if value is not None}


_OF_THE_MODEL = ("model_name", "model_class_name", "model_from_pretrained_kwargs")
_OF_THE_PLACE = ("hook_name", "hook_name_out", "hook_head_index", "hf_hook_name")
_OF_THE_DATA = ("dataset_path", "dataset_trust_remote_code", "sae_lens_training_version")
_OF_TOKENS = ("prepend_bos", "context_size", "seqpos_slice", "exclude_special_tokens")

_UNPROCESSED = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False}
"""How TransformerLens loads a model whose hooks carry the original model's numbers."""


def metadata(dictionary: Dictionary, kept: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """Returns what a configuration says of where a dictionary is from; what SAELens has no place for goes there too.

    Of a file that the dictionary was read from, the metadata says the same again as far as it still holds: figures such
    as L0 and counts of dead latents don't, once it has been changed, and are left out.
    """
    examples = {"model_name": "gpt2", "hook_name": "blocks.1.hook_mlp_out"}
    if dictionary.reads != dictionary.writes:
        examples = {"model_name": "gpt2", "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    found = _known(dictionary) | _still_true(dictionary, kept) | given.by_name()
    warn_of_unknown(
        {name: example for name, example in examples.items() if not found.get(name)},
        "SAELens skips a dictionary without a hook and reports the plain loss, and it loads no model without its name",
    )
    if "hook_name" not in given.by_name():
        _warn_of_bridge(str(found.get("hook_name")))
    ours = {"activation": repr(dictionary.activation), "decoder_norm": repr(dictionary.decoder_norm)}
    site = {"site": str(dictionary.trained_on["site"])} if "site" in dictionary.trained_on else {}
    # Without a version the configuration would be taken for one from before 6.
    return {**found, "sae_lens_version": VERSION, "sparsedict": ours | site}


def _warn_of_bridge(hook: str) -> None:
    """Warns of a hook that one of SAELens' two kinds of models lacks: it skips a transcoder there without an error."""
    if hook.endswith(f".{MLP_IN}"):
        normalised = hook.removesuffix(MLP_IN) + "ln2.hook_normalized"
        warnings.warn(
            f"`hook_name` is written as {hook!r}, a hook of a SAETransformerBridge. A HookedSAETransformer has no hook "
            f"of that name: it skips the dictionary and reports the plain loss. Its nearest hook, {normalised!r}, is "
            "what the MLP reads in TransformerLens 2 with layer norms and unprocessed weights alone. Give `hook_name=` "
            "to choose one.",
            stacklevel=4,
        )


def _known(dictionary: Dictionary) -> dict[str, Any]:
    """Returns what a dictionary's own notes say in SAELens' terms."""
    trained_on = dictionary.trained_on
    hook, hook_out = hook_names(trained_on, dictionary.reads, dictionary.writes)
    known: dict[str, Any] = {"model_name": model_name(trained_on), "hook_name": hook}
    known |= {"hook_name_out": hook_out} if dictionary.reads != dictionary.writes else {}
    # A hook of TransformerLens may have been read from a model with processed weights, which isn't known here.
    is_of_lens = is_hook_name(str(trained_on.get("site", "")))
    known["model_from_pretrained_kwargs"] = {} if is_of_lens else dict(_UNPROCESSED)
    return {name: value for name, value in known.items() if value is not None}


def _still_true(dictionary: Dictionary, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of the metadata that was read which hold for the dictionary as it is."""
    file = kept.get("metadata")
    if not isinstance(file, dict):
        return {}
    about = {**kept, **file}
    trained_on = dictionary.trained_on
    names: set[str] = set(_OF_TOKENS)
    names |= set(_OF_THE_MODEL) if trained_on.get("model") == about.get("model_name") else set()
    names |= set(_OF_THE_PLACE) if trained_on.get("site") == _site(about) else set()
    names |= set() if is_trained_here(dictionary) else set(_OF_THE_DATA)
    return {name: value for name, value in about.items() if name in names and value is not None}
