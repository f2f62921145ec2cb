"""Which hooks of TransformerLens hold the outputs of the MLP and of attention, by the family of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MLP_OUT, MLP_MODULE_OUT, DECODER_OUT = "hook_mlp_out", "mlp.hook_out", "mlp.out.hook_out"
"""The contribution of the MLP to the residual stream, the output of its module, and the output of its last layer."""

ATTENTION_OUT, ATTENTION_MODULE_OUT = "hook_attn_out", "attn.hook_out"
"""The contribution of attention to the residual stream, and the output of its module."""

_UNCHANGED = frozenset(
    ("bert", "gemma", "gpt2", "gptj", "gptneo", "gptneox", "llama", "mistral", "mixtral", "olmo", "opt", "phi", "phi3")
) | {"qwen2", "qwen3", "stablelm"}
"""Families whose blocks add the outputs of the MLP and of attention unchanged to the residual stream.

The tests compare the activations. In other families, the block may normalise or scale an output, or the module may add
the residual stream. There, the hooks of the modules are used, which hold the outputs of the modules in all families.
Only ``TransformerBridge`` has these hooks."""

_HAS_NORM_AFTER = re.compile(r"gemma-?[234]|gemma-?3n|olmo-?[23]|glm-?4", re.IGNORECASE)
"""Families with a norm after the MLP, which circuit-tracer supports in part."""

_ADDS_RESIDUAL = re.compile(r"bloom", re.IGNORECASE)
"""Families whose MLP and attention add the residual stream to their output, and that ``HookedTransformer`` has."""

_HOOKED = re.compile(r"Hooked\w*(Transformer|Encoder)")
_END_OF_CLASS = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")


@dataclass(frozen=True)
class Hooks:
    """Hooks within a block.

    Attributes:
        mlp: The output of the MLP's module.
        decoder: The output of the MLP's last layer.
        attention: The output of attention's module.
        knows_norms: Whether norms have the positions of their names: ``post_attention_layernorm`` precedes the MLP.
    """

    mlp: str
    decoder: str
    attention: str
    knows_norms: bool


UNCHANGED = Hooks(MLP_OUT, MLP_OUT, ATTENTION_OUT, True)
_OF_MODULES = Hooks(MLP_MODULE_OUT, DECODER_OUT, ATTENTION_MODULE_OUT, False)
# The output of the last layer is that of the module, whose hook circuit-tracer supports.
_NORMALISED = Hooks(MLP_MODULE_OUT, MLP_MODULE_OUT, ATTENTION_MODULE_OUT, False)
_WITH_RESIDUAL = Hooks("hook_resid_post", MLP_OUT, ATTENTION_MODULE_OUT, True)


def hooks_of(trained_on: Mapping[str, Any]) -> Hooks:
    """Returns the hooks of a model that hold the outputs of its modules.

    Args:
        trained_on: Metadata of a dictionary, with ``model``, ``model_class`` and ``architecture``.
    """
    model, name, family = (str(trained_on.get(key) or "") for key in ("model", "model_class", "architecture"))
    everything = f"{model} {name} {family}"
    if "Bridge" in name:
        return _OF_MODULES
    if _HAS_NORM_AFTER.search(everything):
        return _NORMALISED
    if _HOOKED.fullmatch(name):
        # Its blocks add the residual stream outside of the modules in all families.
        return UNCHANGED
    if _ADDS_RESIDUAL.search(everything):
        return _WITH_RESIDUAL
    found = family or _END_OF_CLASS.sub("", name)
    return UNCHANGED if re.sub(r"[_-]", "", found).lower() in _UNCHANGED else _OF_MODULES
