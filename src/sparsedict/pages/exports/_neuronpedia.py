"""`write_neuronpedia`, the files that Neuronpedia accepts as an upload."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.analysis import LatentRecords, TokenEffects
from sparsedict.pages._strings import TokenStrings, strings_of
from sparsedict.pages.exports._arguments import effects_of, identifier, records_of
from sparsedict.pages.exports._folder import write_folder, write_json
from sparsedict.pages.exports._latents import (
    ExportedExample,
    ExportedLatent,
    chosen_latents,
    exported,
    histogram,
    plain,
)

TOP = -1.0
"""Lower bound and share of the group of the strongest examples."""


def write_neuronpedia(
    folder: str | os.PathLike[str],
    records: LatentRecords,
    *,
    model_id: str,
    layer: int,
    sae_set: str,
    sae_id_suffix: str | None = None,
    strings: TokenStrings | None = None,
    effects: TokenEffects | None = None,
    vectors: Float[Tensor, "n_latents d_out"] | None = None,
    dataset: str = "",
    latents: Sequence[int] | None = None,
    latents_per_batch: int = 128,
) -> list[Path]:
    """Writes ``batch-0.json``, ``batch-1.json``, ... in the layout of SAEDashboard, which Neuronpedia reads.

    ``skipped_indexes.json`` lists the latents that aren't in a batch. Correlations with neurons and with other latents,
    and the histogram of effects on all tokens, are empty, because the records don't contain them.

    Args:
        folder: A new or empty folder.
        records: The records of one dictionary.
        model_id: Name of the model on Neuronpedia.
        layer: Layer of the dictionary.
        sae_set: Name of the set of dictionaries, such as ``res-16k``.
        sae_id_suffix: Suffix of the dictionary's name.
        strings: Function from token ids to text, see `sparsedict.pages.token_strings`.
        effects: The tokens that latents promote and suppress, see `sparsedict.analysis.token_effects`. Without them,
            the lists of tokens are empty.
        vectors: Direction of each latent, such as the decoder, for steering.
        dataset: Name of the dataset of the tokens.
        latents: The latents. By default all that fired.
        latents_per_batch: Number of latents in a file.

    Returns:
        The paths of the batches.

    Raises:
        FileExistsError: If the folder isn't empty.
        TypeError: If an argument has the wrong type.
        ValueError: If a latent doesn't exist, or a name has spaces or slashes.

    Source: the fields that SAEDashboard 0.8 writes, https://github.com/decoderesearch/SAEDashboard.
    """
    latents_per_batch = checks.at_least("latents_per_batch", latents_per_batch, 1)
    layer = checks.at_least("layer", layer, 0)
    chosen = chosen_latents(records_of("records", records), latents)
    _check_vectors(vectors, records.n_latents)
    effects = effects_of("effects", effects, records)
    strings = None if strings is None else strings_of("strings", strings)
    model_id, sae_set = identifier("model_id", model_id), identifier("sae_set", sae_set)
    sae_id_suffix = None if sae_id_suffix is None else identifier("sae_id_suffix", sae_id_suffix)
    if not isinstance(dataset, str):
        raise TypeError(f"`dataset` must be a text, got {type(dataset).__name__}.")
    named = {"model_id": model_id, "layer": layer, "sae_set": sae_set, "sae_id_suffix": sae_id_suffix}
    of_text = {
        "n_prompts_total": records.n_sequences,
        "n_tokens_in_prompt": round(records.n_tokens / max(records.n_sequences, 1)),
        "dataset": dataset,
    }
    skipped = {
        "model_id": model_id,
        "layer": str(layer),
        "sae_set": sae_set,
        "log_sparsity": -math.log10(records.n_tokens),
        "skipped_indexes": sorted(set(range(records.n_latents)) - set(chosen)),
    }
    names: list[str] = []

    def fill(target: Path) -> None:
        features = (_feature(own, records, of_text, vectors) for own in exported(records, chosen, strings, effects))
        while batch := list(islice(features, latents_per_batch)):
            names.append(f"batch-{len(names)}.json")
            write_json(target / names[-1], {**named, "features": batch})
        write_json(target / "skipped_indexes.json", skipped)

    target = write_folder(folder, fill)
    return [target / name for name in names]


def _check_vectors(vectors: Any, n_latents: int) -> None:
    if vectors is None:
        return
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != n_latents:
        got = list(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"`vectors` must be a tensor with {n_latents} rows, one for each latent, got {got}.")


def _feature(
    own: ExportedLatent, records: LatentRecords, of_text: dict[str, Any], vectors: Tensor | None
) -> dict[str, Any]:
    middles, counts = histogram(records, own.index)
    unknown = ("neuron_alignment", "correlated_neurons", "correlated_features")
    last = ("values", "pearson", "pearson")
    return {
        "feature_index": own.index,
        **{
            f"{name}_{part}": [] for name, third in zip(unknown, last, strict=True) for part in ("indices", "l1", third)
        },
        "neg_str": list(own.suppressed.texts),
        "neg_values": list(map(plain, own.suppressed.effects)),
        "pos_str": list(own.promoted.texts),
        "pos_values": list(map(plain, own.promoted.effects)),
        "frac_nonzero": own.frequency,
        "freq_hist_data_bar_values": list(map(plain, middles)),
        "freq_hist_data_bar_heights": list(map(plain, counts)),
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        **of_text,
        "decoder_weights_dist": [],
        "activations": list(_activations(own)),
        "vector": [] if vectors is None else list(map(plain, vectors[own.index].tolist())),
    }


def _activations(own: ExportedLatent) -> Iterator[dict[str, Any]]:
    for example in own.top:
        yield _activation(example, TOP, own.act_max, TOP)
    for quantile in own.quantiles:
        for example in quantile.examples:
            yield _activation(example, quantile.low, quantile.high, quantile.share)


def _activation(example: ExportedExample, low: float, high: float, share: float) -> dict[str, Any]:
    return {
        "bin_min": plain(low),
        "bin_max": plain(high),
        "bin_contains": share,
        "tokens": list(example.tokens),
        "values": list(map(plain, example.activations)),
        "qualifying_token_index": example.peak,
    }
