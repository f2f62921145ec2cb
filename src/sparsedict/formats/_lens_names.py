"""Translation of module paths and points into the hook names of TransformerLens."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from sparsedict.batches import ROLES, Points
from sparsedict.formats._lens_family import MLP_MODULE_OUT, MLP_OUT, UNCHANGED, Hooks, hooks_of
from sparsedict.types import Role

Side = Literal["in", "out"]

_WRAPPERS = re.compile(r"^((_orig_mod|module|base_model\.model|_model|_fsdp_wrapped_module)\.)+")
"""Prefixes that ``torch.compile``, data parallelism and adapters add to the path of a module."""

_STACKS = (
    "transformer.h",
    "h",
    "transformer.blocks",
    "gpt_neox.layers",
    "model.layers",
    "layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "language_model.layers",
    "model.decoder.layers",
    "decoder.layers",
    "bert.encoder.layer",
    "encoder.layer",
    "blocks",
)
"""Paths of the stack of blocks in GPT-2, GPT-Neo, BLOOM; GPT-NeoX; Llama, Mistral, Qwen, Gemma, Phi; OPT; BERT."""

_BLOCK = re.compile(rf"^({'|'.join(map(re.escape, _STACKS))})\.(\d+)(?:\.(.+))?$")
_HOOK = re.compile(r"(?:^|\.)hook_\w+$")
_OF_BRIDGE = re.compile(r"^blocks\..*\.hook_(in|out)$")
_IN_A_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
_OF_A_BLOCK = re.compile(r"(mlp|attn|ln1|ln2)(_post)?\.|hook_(mlp|resid|attn)_")
"""Beginnings of hook names that need the prefix ``blocks.{number}``."""

_MLPS = ("mlp", "ffn", "feed_forward")
_ENCODERS = ("c_fc", "dense_h_to_4h", "fc1", "up_proj", "gate_proj", "gate_up_proj", "fc_in", "dense")
_DECODERS = ("c_proj", "dense_4h_to_h", "fc2", "down_proj", "fc_out")
_NORMS_BEFORE_MLP = ("ln_2", "ln2", "pre_feedforward_layernorm", "post_attention_layernorm", "final_layer_norm")
_ATTENTIONS = ("attn", "self_attn", "attention", "self_attention")

MLP_IN, HIDDEN, NORM_OUT = "mlp.hook_in", "mlp.hook_post", "ln2.hook_out"
FIRST_LAYER_IN = "mlp.in.hook_in"
"""The MLP's input where the block has no module for the MLP, as in BERT and OPT. TransformerLens 3 lists
``mlp.hook_in`` there too, but never calls it."""


def hook_names(trained_on: Mapping[str, Any], reads: Points, writes: Points) -> tuple[str | None, str | None]:
    """Returns the TransformerLens hooks that a dictionary reads and writes.

    The activations at each hook equal those at the original point if TransformerLens loads the model without
    processing its weights.

    Args:
        trained_on: Metadata of the dictionary, with ``site``, ``model``, ``model_class`` and ``architecture``.
        reads: The activations of the site that the dictionary reads.
        writes: The activations of the site that it writes.

    Returns:
        Both hook names, such as ``"blocks.1.hook_mlp_out"``. ``None`` for a point without a known hook.
    """
    site = trained_on.get("site")
    if not isinstance(site, str) or not site:
        return None, None
    hooks = hooks_of(trained_on)
    layer = trained_on.get("layer")
    ends = site.split(" -> ") if " -> " in site else [site, site]
    if len(ends) != 2:
        return None, None
    points = dict(zip(("inputs", "outputs"), ends, strict=True)) | {"neurons": ends[1]}
    if reads not in ROLES or writes not in ROLES:
        return None, None
    found = (_hook(points[role], role, hooks, layer) for role in (reads, writes))
    return next(found), next(found)


_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CLASS = re.compile(r"[A-Z]\w*(For[A-Z]\w+|LMHeadModel|Model|Transformer|Bridge|Sequential|Module)")


def model_name(trained_on: Mapping[str, Any]) -> str | None:
    """Returns the repository name of the model, or ``None`` for a class name, a local folder or another text."""
    name = trained_on.get("model")
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name) or name.startswith("."):
        return None
    is_class = name == trained_on.get("model_class") or _CLASS.fullmatch(name) is not None
    return None if is_class or os.path.isdir(name) else name


def in_block(hook: str) -> tuple[int, str] | None:
    """Returns the layer of a hook and its name within the block, or ``None`` for a hook outside of blocks."""
    found = _IN_A_BLOCK.match(hook)
    return (int(found[1]), found[2]) if found else None


def is_hook_name(name: str) -> bool:
    """Returns whether a name has the form of a TransformerLens hook."""
    return bool(_HOOK.search(name))


def is_of_bridge(name: str) -> bool:
    """Returns whether only ``TransformerBridge`` has a hook within blocks of this name, not ``HookedTransformer``."""
    return _OF_BRIDGE.search(name) is not None


def norm_before(hook: str) -> str | None:
    """Returns the hook of ``HookedTransformer`` at the norm before the MLP, for the MLP's input."""
    found = in_block(hook)
    return f"blocks.{found[0]}.ln2.hook_normalized" if found and found[1] == MLP_IN else None


def check_hook(argument: str, value: object, *, within_block: bool) -> None:
    """Checks that an argument is a TransformerLens hook of a whole model, or of a block if ``within_block`` is set.

    Raises:
        TypeError: If the value isn't a string.
        ValueError: If the value isn't such a hook. The message suggests a hook.
    """
    if not isinstance(value, str):
        raise TypeError(f"`{argument}` must be a string, got {type(value).__name__}.")
    in_a_block = _IN_A_BLOCK.match(value)
    if within_block:
        example = in_a_block[2] if in_a_block else "mlp.hook_in"
        what, is_right = "TransformerLens hook within a block", is_hook_name(value) and in_a_block is None
    else:
        is_bare = is_hook_name(value) and _OF_A_BLOCK.match(value) is not None
        example = f"blocks.1.{value}" if is_bare else "blocks.1.hook_mlp_out"
        what, is_right = "TransformerLens hook", is_hook_name(value) and not is_bare
    if not is_right:
        raise ValueError(f"`{argument}` must be a {what} such as {example!r}, got {value!r}.")


def check_model_name(argument: str, value: object) -> None:
    """Checks that an argument is the name of a model.

    Raises:
        TypeError: If the value isn't a string.
        ValueError: If the value is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"`{argument}` must be a string, got {type(value).__name__}.")
    if not value.strip():
        raise ValueError(f"`{argument}` must be the name of a model, such as 'gpt2', got {value!r}.")


def _hook(point: str, role: Role, hooks: Hooks, layer: object) -> str | None:
    path, _, said = point.partition(":")
    path = _WRAPPERS.sub("", path)
    if is_hook_name(path):
        is_bare = in_block(path) is None and isinstance(layer, int) and not isinstance(layer, bool)
        return f"blocks.{layer}.{path}" if is_bare else path
    found = _BLOCK.match(path)
    if found is None or said not in ("", "in", "out"):
        return None
    stack, number, rest = found[1], found[2], found[3] or ""
    if role == "neurons":
        # The MLP's output identifies the block, independent of the model family.
        hook = HIDDEN if _within(rest, "out", UNCHANGED) in (MLP_OUT, HIDDEN) else None
    else:
        side: Side = "in" if said == "in" or (not said and role == "inputs") else "out"
        # BERT normalises after the residual addition. The versions of TransformerLens differ in the hooks there.
        is_bert = stack.endswith("encoder.layer")
        hook = None if is_bert and (not rest or rest == "attention") else _within(rest, side, hooks)
    return None if hook is None else f"blocks.{number}.{hook}"


def _within(path: str, side: Side, hooks: Hooks) -> str | None:
    """Returns the hook, within the block, at the input or output of a module."""
    parts = path.split(".") if path else []
    if not parts:
        return "hook_resid_pre" if side == "in" else "hook_resid_post"
    first, last = parts[0], parts[-1]
    if first in _MLPS and len(parts) == 1:
        return MLP_IN if side == "in" else hooks.mlp
    if first in _MLPS and len(parts) == 2:
        return _in_mlp(last, side, hooks)
    # In OPT the two layers of the MLP are direct children of the block.
    if path in ("fc1", "fc2"):
        return FIRST_LAYER_IN if path == "fc1" and side == "in" else _in_mlp(last, side, hooks)
    if path in ("intermediate", "intermediate.dense") and side == "in":
        return FIRST_LAYER_IN
    if path == "intermediate" or (path == "output.dense" and side == "in"):
        return HIDDEN
    if path == "output.dense":
        return hooks.decoder
    if len(parts) == 1 and first in _NORMS_BEFORE_MLP:
        return _at_norm(first, side, hooks)
    if path == "post_feedforward_layernorm":
        return MLP_OUT if side == "out" else MLP_MODULE_OUT
    if side == "out" and first in _ATTENTIONS and len(parts) == 1:
        return hooks.attention
    return None


def _in_mlp(name: str, side: Side, hooks: Hooks) -> str | None:
    if name in _ENCODERS and side == "in":
        return MLP_IN
    if name in _DECODERS:
        return HIDDEN if side == "in" else hooks.decoder
    return None


def _at_norm(name: str, side: Side, hooks: Hooks) -> str | None:
    """Returns the hook at the norm whose output the MLP reads, or ``None`` if the norm has another role here."""
    if name == "post_attention_layernorm" and not hooks.knows_norms:
        return None
    if name == "final_layer_norm":
        # The norm of OPT. In OPT 350M it follows the MLP, so this is the norm's own hook.
        return NORM_OUT if side == "out" else None
    if side == "out":
        return MLP_IN
    # If attention and MLP run in parallel, the norm doesn't read `hook_resid_mid`.
    return "hook_resid_mid" if name in ("ln_2", "pre_feedforward_layernorm") else None
