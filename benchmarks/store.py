"""Speed of stored activations, compared with harvesting and with the disk: ``python -m benchmarks.store``.

The embedded model's activations at one MLP are written once. The benchmark then alternately measures the tokens per
second of five passes: the stream, which runs the model; the store without its files in the page cache; a plain read of
these files without the page cache; and the last two with the files in the page cache. A pass of the store is measured
with checksums, which are verified when a block is first read, and without checksums. Ratios are within one round.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import torch

from sparsedict import zoo
from sparsedict.data import ActivationStore, ActivationStream
from sparsedict.sites import Site

RESULTS = Path(__file__).parent / "results" / "store.json"
CHUNK = 2**22


def emptied(files: Iterable[Path]) -> None:
    """Removes files from the page cache."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(files: Iterable[Path]) -> None:
    """Reads files from end to end."""
    buffer = bytearray(CHUNK)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def served(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def one_round(stream: ActivationStream, folder: Path, batch_size: int, buffer_size: int) -> dict[str, float]:
    """Returns the tokens per second of each variant."""
    files = sorted(folder.glob("*.safetensors"))

    def store(verify: bool) -> ActivationStore:
        return ActivationStore(folder, batch_size=batch_size, buffer_size=buffer_size, verify=verify)

    n_tokens = store(False).n_tokens
    times = {"harvest": seconds(lambda: served(stream)) * n_tokens / (stream.n_tokens or n_tokens)}
    for cache, is_cold in (("cold", True), ("warm", False)):
        for name, run in (
            ("disk", lambda: read(files)),
            ("store", lambda: served(store(False))),
            ("store_checked", lambda: served(store(True))),
        ):
            if is_cold:
                emptied(files)
            times[f"{name}_{cache}"] = seconds(run)
    return {name: n_tokens / taken for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-tokens", type=int, default=1_000_000, help="tokens stored (default 1,000,000)")
    parser.add_argument("--n-harvested", type=int, default=100_000, help="tokens of a timed pass of the stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--buffer-size", type=int, default=2**17, help="tokens in the store's buffer")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--folder", type=Path, default=None, help="folder of the store (default: a temporary folder)")
    arguments = parser.parse_args()
    site = Site(zoo.load_model(), "transformer.h.1.mlp", exclude_first=1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        whole = ActivationStream(
            site, zoo.tokens("train", n_tokens=arguments.n_tokens), batch_size=arguments.batch_size
        )
        begin = time.perf_counter()
        store = whole.save_to(folder, dtype=getattr(torch, arguments.dtype))
        written = store.n_tokens / (time.perf_counter() - begin)
        part = ActivationStream(
            site, zoo.tokens("train", n_tokens=arguments.n_harvested), batch_size=arguments.batch_size
        )
        rounds = [
            one_round(part, Path(folder), arguments.batch_size, arguments.buffer_size) for _ in range(arguments.rounds)
        ]
    result: dict[str, object] = {
        "n_tokens": store.n_tokens,
        "bytes_per_token": store.bytes_per_token,
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
        "written_tokens_per_s": round(written),
        **{f"{name}_tokens_per_s": round(median(one[name] for one in rounds)) for name in rounds[0]},
    }
    for name, above, below in (
        ("store over harvest", "store_warm", "harvest"),
        ("store over harvest, cold and checked", "store_checked_cold", "harvest"),
        ("store over disk, cold", "store_cold", "disk_cold"),
        ("store over disk, cold and checked", "store_checked_cold", "disk_cold"),
        ("store over page cache", "store_warm", "disk_warm"),
    ):
        ratios = sorted(one[above] / one[below] for one in rounds)
        result[name] = {"min": round(ratios[0], 2), "median": round(median(ratios), 2), "max": round(ratios[-1], 2)}
    print(json.dumps(result, indent=1))
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
