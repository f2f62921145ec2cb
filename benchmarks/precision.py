"""The error that stored activations of lower precision add: ``python -m benchmarks.precision``.

Activations of one MLP of the embedded model are stored in float32, bfloat16 and int8 with a scale per token. A
distiller and an autoencoder are trained on each store with several seeds, and evaluated on held-out activations that
were never stored. The table shows the bytes per token of each store, the FVU of the stored activations, and the FVU of
the dictionaries as mean and range over seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import sparsedict as sd
from benchmarks.spread import mean_and_range

RESULTS = Path(__file__).parent / "results" / "precision.json"
PATH = "transformer.h.2.mlp"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def dictionaries(site: sd.Site, seed: int) -> dict[str, sd.Dictionary]:
    """Returns new dictionaries by kind."""
    parts = {
        "activation": sd.TopK(32),
        "decoder_norm": sd.UnitNorm(),
        "generator": torch.Generator().manual_seed(seed),
    }
    n_latents = 2 * site.neurons.n
    return {
        "distiller": sd.SparseDistiller(site.d_in, site.d_out, n_latents, **parts),
        "autoencoder": sd.SparseAutoencoder(site.d_out, n_latents, **parts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-tokens", type=int, default=200_000, help="tokens to store and train on")
    parser.add_argument("--n-held-out", type=int, default=20_000, help="tokens of the evaluation")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args()
    site = sd.Site(sd.zoo.load_model(), PATH, exclude_tokens=[0])
    tokens = sd.zoo.tokens("train", n_tokens=arguments.n_tokens * 21 // 20)
    held_out = site.capture(sd.zoo.tokens("evaluation", n_tokens=arguments.n_held_out)).batch()
    stream = sd.ActivationStream(site, tokens, batch_size=512, buffer_size=2**16)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            name: stream.save_to(Path(folder) / name, dtype=dtype, progress=False) for name, dtype in DTYPES.items()
        }
        originals = outputs(stores["float32"])
        for name, store in stores.items():
            row: dict[str, Any] = {
                "dtype": name,
                "bytes_per_token": store.bytes_per_token,
                "stored_fvu": float(sd.metrics.fvu(outputs(store), originals)),
            }
            fvus: dict[str, list[float]] = {"distiller": [], "autoencoder": []}
            for seed in range(arguments.seeds):
                data = sd.ActivationStore(store.folder, batch_size=512, seed=seed, dtype=torch.float32)
                trained = dictionaries(site, seed)
                trainees = {kind: sd.Trainee(dictionary) for kind, dictionary in trained.items()}
                sd.fit_many(trainees, data, n_tokens=arguments.n_tokens, progress=False)
                for kind, dictionary in trained.items():
                    inputs, targets = dictionary.select(held_out)
                    with torch.no_grad():
                        fvus[kind].append(float(sd.metrics.fvu(dictionary(inputs).reconstruction, targets)))
            rows.append(row | {"fvu": fvus})
            print(table(rows[-1:], heading=len(rows) == 1), flush=True)
    settings = {"n_tokens": arguments.n_tokens, "seeds": arguments.seeds, "threads": torch.get_num_threads()}
    arguments.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def outputs(store: sd.ActivationStore) -> torch.Tensor:
    """Returns all outputs of a store in an order that depends on the seed alone."""
    whole = sd.ActivationStore(store.folder, batch_size=4096, buffer_size=2**20, dtype=torch.float32)
    return torch.cat([batch.outputs for batch in whole])


def table(rows: list[dict[str, Any]], *, heading: bool) -> str:
    """Returns the results as a table."""
    lines = (
        [f"{'dtype':10}{'bytes':>7}{'stored FVU':>12}{'distiller FVU':>27}{'autoencoder FVU':>27}"] if heading else []
    )
    for row in rows:
        spreads = [mean_and_range(values, ".4f") for values in row["fvu"].values()]
        lines.append(
            f"{row['dtype']:10}{row['bytes_per_token']:7}{row['stored_fvu']:12.2e}"
            + "".join(f"{s:>27}" for s in spreads)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
