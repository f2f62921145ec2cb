"""The model card of a dictionary: its settings, training data, metrics and figures."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from sparsedict.display import finite
from sparsedict.hub._address import HubAddress
from sparsedict.storage import Description, Named

_TAGS = ("interpretability", "sparse-dictionary")
_KIND_TAGS = {
    "SparseAutoencoder": "sparse-autoencoder",
    "SparseDistiller": "transcoder",
    "CrossLayerDistiller": "cross-layer-transcoder",
    "Crosscoder": "crosscoder",
}


def card(
    description: Description,
    address: str | HubAddress,
    *,
    metrics: Mapping[str, Any] | None = None,
    figures: Mapping[str, str] | None = None,
    license: str | None = None,
) -> str:
    """Returns a model card in Markdown, with the hub's metadata header.

    Args:
        description: Description of the dictionary.
        address: Address of the dictionary on the hub.
        metrics: Numbers by name, such as ``evaluation.to_dict()``; ``None`` and NaN are omitted.
        figures: Image files by caption, relative to the card.
        license: Identifier of the license on the hub, such as ``"mit"``.
    """
    place = HubAddress.from_string(address) if isinstance(address, str) else address
    trained_on = {name: value for name, value in description.trained_on.items() if value is not None}
    sections = [
        _header(description, license),
        f"# {place.path or place.repository.partition('/')[2]}\n",
        f"A `{description.kind.name}` of [sparsedict](https://pypi.org/project/sparsedict/): "
        f"{description.widths['n_latents']:,} latents, inputs of width {description.widths['d_in']:,} and "
        f"outputs of width {description.widths['d_out']:,}.\n",
        f'```python\nimport sparsedict as sd\n\ndictionary = sd.load("{place}")\n```\n',
        _table("Settings", _settings(description)),
        _table("Trained on", trained_on),
        _table("Metrics", {name: value for name, value in finite(metrics or {}).items() if value is not None}),
        *(f"## {_plain(caption)}\n\n![{_plain(caption)}]({file})\n" for caption, file in (figures or {}).items()),
    ]
    return "\n".join(section for section in sections if section)


def _header(description: Description, license: str | None) -> str:
    model = description.trained_on.get("model")
    lines = ["---", "library_name: sparsedict"]
    lines += [f"license: {json.dumps(license)}"] if license else []
    # The hub rejects a card whose base model isn't the name of a repository.
    lines += [f"base_model: {json.dumps(model)}"] if isinstance(model, str) and _is_repository(model) else []
    tags = (*_TAGS, _KIND_TAGS[description.kind.name]) if description.kind.name in _KIND_TAGS else _TAGS
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _is_repository(model: str) -> bool:
    # The name of a model that was loaded from a folder is its path, which may look like a repository.
    if os.path.isdir(model):
        return False
    try:
        return HubAddress.from_string(model) == HubAddress(model)
    except ValueError:
        return False


def _settings(description: Description) -> dict[str, Any]:
    parts = {role: _call(part) for role, part in description.parts.items()}
    return {
        "kind": _call(description.kind),
        **parts,
        "dtype": description.dtype,
        "saved by": description.library_version,
    }


def _call(named: Named) -> str:
    return f"{named.name}({', '.join(f'{name}={_value(value)}' for name, value in named.arguments.items())})"


def _value(value: Any) -> str:
    return _call(value) if isinstance(value, Named) else repr(value)


def _table(title: str, rows: Mapping[str, Any]) -> str:
    if not rows:
        return ""
    lines = [f"| {_plain(name)} | {_plain(_shown(value))} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(_shown(item) for item in value[:16])
        return f"{shown}, and {len(value) - 16:,} more" if len(value) > 16 else shown
    return str(value)


def _plain(text: str) -> str:
    """Escapes a value, so that it stays in its table cell and isn't interpreted as Markdown or HTML."""
    one_line = " ".join(str(text).split())
    for mark in "\\`*_[]<>|":
        one_line = one_line.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return one_line
