"""The configuration of a set of transcoders of circuit-tracer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sparsedict import checks
from sparsedict.activations import Activation, TopK
from sparsedict.dictionaries import Dictionary
from sparsedict.formats._export import is_trained_here, original_cfg, warn_of_unknown
from sparsedict.formats._lens_names import (
    FIRST_LAYER_IN,
    MLP_IN,
    MLP_OUT,
    NORM_OUT,
    hook_names,
    in_block,
    is_hook_name,
    model_name,
)
from sparsedict.formats._location import listed

_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out"}
"""The hooks of an MLP, by their keys in the configuration."""


def layer_of(trained_on: Mapping[str, Any]) -> int | None:
    """Returns the layer that a dictionary was trained at, or ``None`` if its site doesn't determine the layer."""
    layers = {found[0] for hook in _hooks(trained_on) if hook and (found := in_block(hook))}
    return layers.pop() if len(layers) == 1 else None


def config_of(
    by_layer: Mapping[int, Dictionary],
    model: str | None,
    given: tuple[str | None, str | None],
    existing: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the configuration of a set.

    Args:
        by_layer: The distillers by layer.
        model: Name of the model, or ``None`` to derive it from the distillers.
        given: The hooks of input and output, or ``None`` to derive them.
        existing: The configuration in the folder, if some of its layers remain.

    Raises:
        ValueError: If layers read or write different places, or others than the layers that are existing.
    """
    first = by_layer[min(by_layer)]
    entries = entries_of({number: one.trained_on for number, one in by_layer.items()}, model, given, existing)
    kind = {"model_kind": "transcoder_set"}
    return {**valid_entries(first), **kind, **entries, **_top_k_entries(first.activation)}


def entries_of(
    trained_on: Mapping[int, Mapping[str, Any]],
    model: str | None,
    given: tuple[str | None, str | None],
    existing: Mapping[str, Any],
) -> dict[str, str]:
    """Returns the name of the model and the hooks, by their keys in the configuration.

    Args:
        trained_on: Metadata of each layer.
        model: See :func:`config_of`.
        given: See :func:`config_of`.
        existing: See :func:`config_of`.

    Raises:
        ValueError: See :func:`config_of`.
    """
    name = model or model_name(trained_on[min(trained_on)]) or existing.get("model_name")
    hooks = {
        key: hook or _common_hook(trained_on, end) for end, (key, hook) in enumerate(zip(_HOOKS, given, strict=True))
    }
    arguments = dict(zip(_HOOKS, ("input_hook", "output_hook"), strict=True))
    missing = {"model": "gpt2"} if not name else {}
    missing |= {arguments[key]: _HOOKS[key] for key, hook in hooks.items() if not hook}
    warn_of_unknown(missing, f"the hooks of an MLP are written by default, {' and '.join(_HOOKS.values())}")
    hooks = {key: hook or _HOOKS[key] for key, hook in hooks.items()}
    for key, hook in hooks.items():
        if existing.get(key, hook) != hook:
            raise ValueError(
                f"`{arguments[key]}` must be {existing[key]!r}, as in the layers that are in the folder, got {hook!r}. "
                "Write the set to another folder."
            )
    return ({"model_name": name} if name else {}) | hooks


def yaml_of(config: Mapping[str, Any]) -> str:
    """Returns a configuration as YAML. JSON values are valid YAML values."""
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items())


def valid_entries(dictionary: Dictionary) -> dict[str, str]:
    """Returns the entries of the original configuration that are still valid for the dictionary."""
    stale = {"model_name", "activation", "k"} | ({"scan", "scan_name"} if is_trained_here(dictionary) else set())
    kept = original_cfg(dictionary, "circuit-tracer")
    return {name: value for name, value in kept.items() if isinstance(value, str) and name not in stale}


def _top_k_entries(activation: Activation) -> dict[str, Any]:
    if not isinstance(activation, TopK):
        return {}
    checks.warn(
        "The TopK of circuit-tracer keeps negative values among the k largest, which are zero in sparsedict. Release "
        "0.5.0 of circuit-tracer applies ReLU instead of TopK. All versions read the result of "
        "`sd.calibrate_threshold`."
    )
    return {"activation": "topk", "k": activation.k}


def _common_hook(trained_on: Mapping[int, Mapping[str, Any]], end: int) -> str | None:
    """Returns the hook within a block that all layers have in common, or ``None`` if no hook is known."""
    found = {hook for metadata in trained_on.values() if (hook := _within(metadata, end))}
    if len(found) > 1:
        raise ValueError(
            f"`dictionary` must have distillers that {('read', 'write')[end]} the same hook in all layers, as "
            f"circuit-tracer requires, got {listed(sorted(found))}."
        )
    return found.pop() if found else None


def _within(trained_on: Mapping[str, Any], end: int) -> str | None:
    hook = _hooks(trained_on)[end]
    found = in_block(hook) if hook else None
    if found is None:
        return None
    site = str(trained_on.get("site"))
    # circuit-tracer wraps the MLP of `HookedTransformer`, which has a module for it in all models, OPT included.
    if found[1] in (FIRST_LAYER_IN, NORM_OUT) and not is_hook_name(site.partition(" -> ")[0]):
        return MLP_IN
    is_module = not is_hook_name(site.rpartition(" -> ")[2]) and "post_feedforward" not in site
    # Without a norm after the MLP both hooks are equal, and circuit-tracer supports this one for more models.
    return "mlp.hook_out" if found[1] == MLP_OUT and is_module else found[1]


def _hooks(trained_on: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return hook_names(trained_on, "inputs", "outputs")
