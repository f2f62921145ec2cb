"""`write_parquet`, a table of latents for data tools."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sparsedict import checks
from sparsedict.analysis import LatentRecords, TokenEffects
from sparsedict.pages._strings import TokenStrings, strings_of
from sparsedict.pages.exports._arguments import by_key, effects_of, records_by_key
from sparsedict.pages.exports._latents import (
    ExportedExample,
    ExportedLatent,
    chosen_latents,
    exported,
    histogram,
)
from sparsedict.storage import replace_file

ROWS = 256
"""Number of rows of a row group."""


def write_parquet(
    path: str | os.PathLike[str],
    records: Mapping[str, LatentRecords],
    *,
    strings: TokenStrings | None = None,
    effects: Mapping[str, TokenEffects] | None = None,
    latents: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Writes a Parquet file with a row for each latent of each dictionary.

    The column ``examples`` lists the examples with their tokens, token ids and activations. Its field ``quantile`` is
    the index of the quantile of the example, and null for top examples. See the documentation for all columns.

    Args:
        path: The Parquet file. It is replaced atomically.
        records: The records by the name of the dictionary.
        strings: Function from token ids to text, see `sparsedict.pages.token_strings`.
        effects: For each dictionary, the tokens that latents promote and suppress, see
            `sparsedict.analysis.token_effects`. Without them, the lists of tokens are empty.
        latents: For each dictionary, the latents. By default all, including those that never fired.

    Raises:
        ImportError: If pyarrow isn't installed (``pip install 'sparsedict[hf]'``).
        IsADirectoryError: If the path is a folder.
        TypeError: If an argument has the wrong type.
        ValueError: If a latent or a dictionary doesn't exist, or there are no records.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need pyarrow: pip install 'sparsedict[hf]'.") from error
    path = checks.file_path("path", path, "a Parquet file")
    by_name = records_by_key(records, str, "names")
    latents = by_key("latents", latents, by_name, "names")
    chosen = {name: chosen_latents(own, latents.get(name, range(own.n_latents))) for name, own in by_name.items()}
    of_name = {
        name: effects_of(f"effects[{name!r}]", own, by_name[name])
        for name, own in by_key("effects", effects, by_name, "names").items()
    }
    texts = None if strings is None else strings_of("strings", strings)
    schema = _schema(pyarrow)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(file: Path) -> None:
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for name, own in by_name.items():
                rows = (_row(name, latent, own) for latent in exported(own, chosen[name], texts, of_name.get(name)))
                while block := list(islice(rows, ROWS)):
                    writer.write_table(pyarrow.Table.from_pylist(block, schema))

    replace_file(path, write)
    return path


def _schema(arrow: Any) -> Any:
    number, numbers, texts = arrow.float32(), arrow.list_(arrow.float32()), arrow.list_(arrow.string())
    example = arrow.struct(
        {
            "quantile": arrow.int32(),
            "tokens": texts,
            "token_ids": arrow.list_(arrow.int64()),
            "activations": numbers,
            "peak": arrow.int32(),
            "sequence": arrow.int64(),
            "position": arrow.int64(),
        }
    )
    return arrow.schema(
        {
            "dictionary": arrow.string(),
            "latent": arrow.int32(),
            "count": arrow.int64(),
            "frequency": arrow.float64(),
            "act_min": number,
            "act_max": number,
            "quantile_values": numbers,
            "histogram_values": numbers,
            "histogram_counts": numbers,
            "promoted": texts,
            "promoted_by": numbers,
            "suppressed": texts,
            "suppressed_by": numbers,
            "examples": arrow.list_(example),
        }
    )


def _row(name: str, own: ExportedLatent, records: LatentRecords) -> dict[str, Any]:
    middles, counts = histogram(records, own.index) if own.count else ([], [])
    examples = [_example(example, None) for example in own.top]
    examples += [_example(example, quantile.index) for quantile in own.quantiles for example in quantile.examples]
    return {
        "dictionary": name,
        "latent": own.index,
        "count": own.count,
        "frequency": own.frequency,
        "act_min": own.act_min,
        "act_max": own.act_max,
        "quantile_values": records.quantile_values[own.index].tolist(),
        "histogram_values": middles,
        "histogram_counts": counts,
        "promoted": own.promoted.texts,
        "promoted_by": own.promoted.effects,
        "suppressed": own.suppressed.texts,
        "suppressed_by": own.suppressed.effects,
        "examples": examples,
    }


def _example(example: ExportedExample, quantile: int | None) -> dict[str, Any]:
    return {
        "quantile": quantile,
        "tokens": example.tokens,
        "token_ids": example.ids,
        "activations": example.activations,
        "peak": example.peak,
        "sequence": example.sequence,
        "position": example.position,
    }
