"""Time and size of the pages of a wide dictionary: ``python -m benchmarks.reading``.

The embedded model's second MLP gets a distiller with initial weights and `TopK`. The benchmark alternately measures
`sparsedict.analysis.collect` and the bare pass over the same tokens: the model's forward pass up to the MLP, and the
dictionary's sparse encoding. The ratio of their speeds is within one round. Then it writes the pages.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.report import machine
from sparsedict import analysis, pages, zoo
from sparsedict.activations import TopK
from sparsedict.dictionaries import SparseDistiller
from sparsedict.norms import UnitNorm
from sparsedict.sites import Site

RESULTS = Path(__file__).parent / "results" / "reading.json"


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def bare(site: Site, distiller: SparseDistiller, tokens: Tensor, batch_size: int) -> None:
    """Runs the forward pass and the sparse encoding."""
    for part in tokens.split(batch_size):
        distiller.encode_sparse(site.capture(part).batch().inputs)


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-tokens", type=int, default=1_000_000)
    parser.add_argument("--n-latents", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="sequences in a forward pass")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file")
    arguments = parser.parse_args()
    size = arguments.batch_size
    site = Site(zoo.load_model(), "transformer.h.1.mlp", exclude_tokens=[0])
    distiller = SparseDistiller(
        site.d_in, site.d_out, arguments.n_latents, activation=TopK(arguments.k), decoder_norm=UnitNorm()
    )
    tokens = torch.as_tensor(zoo.tokens("train", n_tokens=arguments.n_tokens))
    start = site.capture(tokens[:80]).batch()
    distiller.initialise_(start.inputs, start.outputs)
    distiller.eval()

    def collect(part: Tensor) -> dict[str, analysis.LatentRecords]:
        return analysis.collect(site, {"distiller": distiller}, part, batch_size=size, progress=False)

    collect(tokens[:size])
    before = peak_gb()
    rounds: list[dict[str, float]] = []
    records: dict[str, analysis.LatentRecords] = {}
    for _ in range(arguments.rounds):
        without = seconds(lambda: bare(site, distiller, tokens, size))
        cpu = time.process_time()
        begin = time.perf_counter()
        records = collect(tokens)
        taken = time.perf_counter() - begin
        rounds.append({"bare": without, "pass": taken, "pass, processor": time.process_time() - cpu})
    with tempfile.TemporaryDirectory() as folder:
        written = seconds(
            lambda: pages.write(
                folder, site, {"distiller": distiller}, records=records, tokenizer=zoo.load_tokenizer(), progress=False
            )
        )
        n_bytes = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    result = {
        "n_tokens": tokens.numel(),
        "n_latents": arguments.n_latents,
        "k": arguments.k,
        "machine": machine(None, "cpu"),
        "speed over bare pass": [round(one["bare"] / one["pass"], 2) for one in rounds],
        "seconds": [{name: round(value) for name, value in one.items()} for one in rounds],
        "peak memory in GiB": {"before the pass": round(before, 2), "after": round(peak_gb(), 2)},
        "pages in seconds": round(written),
        "pages in MB": round(n_bytes / 1e6, 1),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
