"""`write_circuit_tracer`, the feature files that the frontend of circuit-tracer reads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.analysis import LatentRecords, TokenEffects
from sparsedict.pages._strings import TokenStrings, strings_of
from sparsedict.pages.exports._arguments import by_key, effects_of, identifier, records_by_key
from sparsedict.pages.exports._folder import write_folder, write_json
from sparsedict.pages.exports._latents import (
    ExportedExample,
    ExportedLatent,
    chosen_latents,
    exported,
    histogram,
    percentiles,
    plain,
)

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def write_circuit_tracer(
    folder: str | os.PathLike[str],
    records: Mapping[int, LatentRecords],
    *,
    transcoder_id: str,
    strings: TokenStrings | None = None,
    effects: Mapping[int, TokenEffects] | None = None,
    latents: Mapping[int, Sequence[int]] | None = None,
) -> int:
    """Writes a JSON file for each latent of each layer, in the layout of circuit-tracer's frontend.

    The name of a file is the number of the feature in attribution graphs, see `feature_number`. Write to a subfolder
    of the folder with the graphs, and set the ``scan`` of the graphs to its address: the frontend reads the files in
    ``GRAPHS/features`` for the scan ``./data/features``.

    Args:
        folder: A new or empty folder.
        records: The records of the dictionary of each layer.
        transcoder_id: Name of the set of transcoders, without spaces and slashes.
        strings: Function from token ids to text, see `sparsedict.pages.token_strings`.
        effects: For each layer, the tokens that latents promote and suppress, see
            `sparsedict.analysis.token_effects`. Without them, the lists of tokens are empty.
        latents: For each layer, the latents. By default all that fired.

    Returns:
        The number of files.

    Raises:
        FileExistsError: If the folder isn't empty.
        TypeError: If an argument has the wrong type.
        ValueError: If a latent or a layer doesn't exist, or there are no records.
    """
    by_layer = records_by_key(records, _layer, "layers")
    latents = by_key("latents", latents, by_layer, "layers")
    chosen = {layer: chosen_latents(own, latents.get(layer)) for layer, own in by_layer.items()}
    of_layer = {
        layer: effects_of(f"effects[{layer}]", own, by_layer[layer])
        for layer, own in by_key("effects", effects, by_layer, "layers").items()
    }
    transcoder_id = identifier("transcoder_id", transcoder_id)
    texts = None if strings is None else strings_of("strings", strings)

    def fill(target: Path) -> None:
        for layer, own in by_layer.items():
            numbers = {latent: latent for latent in chosen[layer]}
            write_features(target, layer, own, numbers, transcoder_id, texts, of_layer.get(layer))

    write_folder(folder, fill)
    return sum(map(len, chosen.values()))


def write_features(
    target: Path,
    layer: int,
    records: LatentRecords,
    numbers: Mapping[int, int],
    transcoder_id: str,
    strings: TokenStrings | None,
    effects: TokenEffects | None,
) -> None:
    """Writes the files of some latents of a layer. ``numbers`` maps latents of the records to those of the layer."""
    for latent in exported(records, list(numbers), strings, effects):
        _write(target, layer, numbers[latent.index], latent, records, transcoder_id)


def feature_number(layer: int, latent: int) -> int:
    """Returns the number of a feature in attribution graphs (Cantor's pairing of layer and latent).

    Example:
        >>> feature_number(0, 3), feature_number(2, 3)
        (9, 18)
    """
    layer, latent = checks.at_least("layer", layer, 0), checks.at_least("latent", latent, 0)
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def _write(
    target: Path, layer: int, index: int, own: ExportedLatent, records: LatentRecords, transcoder_id: str
) -> None:
    number = feature_number(layer, index)
    quantiles = [("Top", own.top)]
    quantiles += [(f"{q.low:.3g} to {q.high:.3g}", q.examples) for q in own.quantiles]
    content = {
        "transcoder_id": transcoder_id,
        "index": index,
        "examples_quantiles": [
            {"quantile_name": name, "examples": list(map(_example, examples))} for name, examples in quantiles
        ],
        "top_logits": list(map(_escaped, own.promoted.texts)),
        "bottom_logits": list(map(_escaped, own.suppressed.texts)),
        "act_min": own.act_min,
        "act_max": own.act_max,
        "quantile_values": list(map(plain, percentiles(records, own.index))),
        "histogram": list(map(plain, histogram(records, own.index)[1])),
        "activation_frequency": own.frequency,
    }
    write_json(target / f"{number}.json", content)


def _example(example: ExportedExample) -> dict[str, Any]:
    return {
        "tokens_acts_list": list(map(plain, example.activations)),
        "train_token_ind": example.peak,
        "is_repeated_datapoint": False,
        "tokens": list(map(_escaped, example.tokens)),
    }


def _escaped(token: str) -> str:
    """Returns single bytes in the form that the frontend joins to characters."""
    byte = _BYTE.fullmatch(token)
    return f"\\x{byte[1].lower()}" if byte else token


def _layer(key: Any) -> int:
    """Returns the number of a layer.

    Raises:
        TypeError: If the key isn't an integer.
        ValueError: If it is negative.
    """
    try:
        return checks.at_least("records", key, 0)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`records` must map numbers of layers, such as 0, to records, got the key {key!r}."
        ) from error
