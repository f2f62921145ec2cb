"""Finds the weight matrices of MLPs: one file per family of models.

A family is a function that yields every interpretation of a module as an MLP of that family, the most likely first.
The right one is selected by comparing outputs rather than names; see `find_neurons`.

| file | MLPs |
|---|---|
| `_two_layer.py` | two linear layers and an activation: GPT-2, GPT-Neo, GPT-NeoX, DistilBERT, OPT, `nn.Sequential` |
| `_gated.py` | three linear layers: Llama, Mistral, Qwen, Gemma, T5 v1.1; two where the first is fused: Phi-3, GLM |
| `_separate_layers.py` | layers in separate modules: BERT, RoBERTa, ViT |
| `_lens.py` | TransformerLens 4 (`TransformerBridge`) and 3 (`HookedTransformer`) |
"""

from collections.abc import Iterator

from torch import nn

from sparsedict.sites.families._candidate import Candidate, Family
from sparsedict.sites.families._gated import fused_gate, gated
from sparsedict.sites.families._lens import bridge, hooked
from sparsedict.sites.families._separate_layers import separate_layers
from sparsedict.sites.families._two_layer import two_layer

FAMILIES: tuple[Family, ...] = (bridge, hooked, two_layer, gated, fused_gate, separate_layers)

__all__ = ["FAMILIES", "Family", "Candidate", "candidates"]


def candidates(module: nn.Module) -> Iterator[Candidate]:
    """Yields every interpretation of a module as an MLP."""
    for family in FAMILIES:
        yield from family(module)
