"""Fuzzes the readers of other libraries' checkpoints, guided by coverage.

    pip install atheris pyyaml && python tests/fuzz/fuzz_formats.py --seconds 600 --keep FOLDER

Each input stands for one file of a checkpoint, written into a copy of one of the tests' fixtures and loaded. A reader
may load it or refuse it by name; any other error, a file made elsewhere and a load that takes more than two seconds of
the processor are findings. Prints how many inputs were tried and what was found; findings are kept in the folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "src"))
FIXTURES = HERE.parent / "formats" / "fixtures"
SLOW = 2.0
MEMORY = 6 * 2**30
TARGETS = [
    ("sae_lens", "gated", "sae_weights.safetensors"),
    ("sae_lens", "old_topk", "cfg.json"),
    ("sae_lens", "jumprelu_skip_transcoder", "cfg.json"),
    ("sparsify", "transcoder_skip", "sae.safetensors"),
    ("sparsify", "autoencoder", "cfg.json"),
    ("dictionary_learning", "matryoshka", "ae.pt"),
    ("dictionary_learning", "gated", "ae.pt"),
    ("dictionary_learning", "k_on_average", "config.json"),
    ("gemma_scope", "first", "params.npz"),
    ("gemma_scope", "second_affine", "params.safetensors"),
    ("circuit_tracer", "jump_relu_skip", "layer_0.safetensors"),
    ("circuit_tracer", "two_layers", "config.yaml"),
]


def seeds(folder: Path) -> None:
    """Writes what the released libraries wrote, as inputs to start from: the number of the target, then the file."""
    for number, (library, _, name) in enumerate(TARGETS):
        for found in FIXTURES.glob(f"{library}/*/{name}"):
            (folder / f"{number}_{found.parent.name}").write_bytes(bytes([number]) + found.read_bytes())


class Fuzzed:
    """Loads inputs, and notes what must not happen."""

    def __init__(self, keep: Path, seconds: float) -> None:
        self.keep = keep
        self.until = time.monotonic() + seconds
        self.counts = {"inputs": 0, "loaded": 0, "refused": 0, "findings": 0, "slow": 0, "slowest_s": 0.0}
        self.seen: set[str] = set()
        self.folders = [self._folder(number) for number in range(len(TARGETS))]

    def _folder(self, number: int) -> Path:
        library, case, _ = TARGETS[number]
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "checkpoint"
        shutil.copytree(FIXTURES / library / case, folder)
        return folder

    def __call__(self, data: bytes) -> None:
        import sparsedict as sd

        if not data:
            return
        number = data[0] % len(TARGETS)
        folder, name = self.folders[number], TARGETS[number][2]
        (folder / name).write_bytes(data[1:])
        self.counts["inputs"] += 1
        # Of the processor: a machine that does other work may let a load wait.
        started = time.process_time()
        try:
            sd.load(folder / name if name.startswith("layer") else folder)
            self.counts["loaded"] += 1
        except (sd.storage.StorageError, FileNotFoundError) as error:
            self.counts["refused"] += 1
            if str(folder) not in str(error):
                self.found("unnamed", data, str(error))
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self.found(
                f"{type(error).__name__}_{Path(frame.filename).stem}_{frame.lineno}", data, traceback.format_exc()
            )
        took = time.process_time() - started
        self.counts["slowest_s"] = round(max(took, self.counts["slowest_s"]), 3)
        if took > SLOW:
            self.counts["slow"] += 1
            self.found(f"slow_{number}", data, f"{took:.1f} s")
        if any(path.name != "checkpoint" for path in folder.parent.iterdir()):
            self.found("file_made", data, str(list(folder.parent.iterdir())))
        if self.counts["inputs"] % 500 == 0:
            self.note()

    def found(self, what: str, data: bytes, said: str) -> None:
        self.counts["findings"] += 1
        if what not in self.seen:
            self.seen.add(what)
            (self.keep / what).write_bytes(data)
            (self.keep / f"{what}.txt").write_text(said)

    def note(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        self.counts["peak_mib"] = peak
        (self.keep / "counts.json").write_text(json.dumps({**self.counts, "distinct": sorted(self.seen)}))


def fuzz(arguments: argparse.Namespace, corpus: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["sparsedict.formats", "sparsedict.storage", "zipfile", "json", "yaml"]):
        import sparsedict as sd

        _ = sd
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    fuzzed = Fuzzed(Path(arguments.keep), arguments.seconds)
    options = [f"-max_total_time={int(arguments.seconds)}", "-timeout=120", "-rss_limit_mb=0", "-max_len=8192"]
    kept = f"-artifact_prefix={arguments.keep}/"
    atheris.Setup([sys.argv[0], *options, kept, "-report_slow_units=120", "-verbosity=0", corpus], fuzzed)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--keep", default="fuzzed", help="folder of findings and counts")
    parser.add_argument("--corpus", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    Path(arguments.keep).mkdir(parents=True, exist_ok=True)
    if arguments.corpus is not None:
        fuzz(arguments, arguments.corpus)
        return
    with tempfile.TemporaryDirectory() as corpus:
        seeds(Path(corpus))
        ran = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--corpus", corpus], check=False)
    counts = json.loads((Path(arguments.keep) / "counts.json").read_text())
    print(json.dumps(counts, indent=2))
    if ran.returncode:
        print(f"the fuzzer itself ended with {ran.returncode}: a crash or a hang of more than 120 s")
    sys.exit(bool(counts["findings"] or ran.returncode))


if __name__ == "__main__":
    main()
