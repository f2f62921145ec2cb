"""Fuzzing of readers of saved files with damaged files: ``python -m benchmarks.fuzz``.

Each target writes valid files and reads them. An input consists of these files with one to four mutations. The number
of an input determines its mutations, so that ``--show`` can recreate it. A reader may return, or raise one of its
documented errors. Other errors count as crashes, as do execution of code in a pickle and a use of more than the 4 GiB
of memory of the reading process. Reads that take more than ``--limit`` seconds count as hangs. ``--atheris`` finds
inputs by code coverage and requires the package atheris.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import sparsedict as sd
from benchmarks.mutations import broken
from sparsedict.storage import StorageError, read_checkpoint, save_tensors

RESULTS = Path(__file__).parent / "results" / "fuzz.json"
CHECKPOINTS = Path(__file__).parents[1] / "tests" / "formats" / "fixtures"
MEMORY = 4 * 2**30


@dataclass(frozen=True)
class Target:
    """A format to fuzz.

    Attributes:
        write: Writes valid files to an existing folder.
        read: Reads the folder.
        allowed: Exceptions that ``read`` may raise.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    allowed: tuple[type[Exception], ...] = (StorageError, FileNotFoundError)


def dictionary() -> sd.Dictionary:
    torch.manual_seed(0)
    return sd.SparseDistiller(6, 5, 12, activation=sd.JumpReLU(), decoder_norm=sd.MaxNorm(1.0), skip=True)


def autoencoder() -> sd.SparseAutoencoder:
    torch.manual_seed(0)
    return sd.SparseAutoencoder(6, 12, activation=sd.TopK(3), decoder_norm=sd.UnitNorm())


def _store(folder: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(50, 4), torch.nn.Linear(4, 3))
    stream = sd.ActivationStream(sd.Site(model, "1"), torch.arange(800).view(50, 16) % 50, batch_size=64)
    stream.save_to(folder, progress=False)


def _served(folder: Path) -> None:
    for _ in sd.ActivationStore(folder, batch_size=128, buffer_size=256):
        pass


def _run(folder: Path) -> None:
    sd.fit(autoencoder(), torch.randn(64, 6), n_tokens=128, batch_size=32, progress=False, checkpoint=folder / "run")
    (newest,) = sorted((folder / "run").glob("step-*"))[-1:]
    for file in newest.iterdir():
        file.rename(folder / file.name)
    shutil.rmtree(folder / "run")


def _report(folder: Path) -> None:
    shapes = {"W_enc": (6, 12), "W_dec": (12, 6), "b_enc": (12,), "b_dec": (6,), "b_pre": (6,)}
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "student.pt")


def _weights() -> dict[str, torch.Tensor]:
    """Returns weights with the names of custom code and of SAELens."""
    torch.manual_seed(0)
    return {"W_enc": torch.randn(12, 6), "b_enc": torch.randn(12), "W_dec": torch.randn(6, 12), "b_dec": torch.randn(6)}


def _qwen_scope(folder: Path) -> None:
    torch.save(_weights(), folder / "layer3.sae.pt")


def _llama_scope(folder: Path) -> None:
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
    (folder / "checkpoints").mkdir()
    weights = {names[name]: weight for name, weight in _weights().items()}
    save_tensors(folder / "checkpoints" / "final.safetensors", weights, {"format": "pt"})
    cfg: dict[str, Any] = {"d_model": 6, "act_fn": "jumprelu", "jump_relu_threshold": 0.4}
    cfg |= {"norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 3.0, "out": 2.0}}
    cfg |= {"sparsity_include_decoder_norm": True, "hook_point_in": "blocks.3.hook_resid_post"}
    (folder / "hyperparams.json").write_text(json.dumps(cfg), encoding="utf-8")


def _by_hand(file: Path) -> sd.Dictionary:
    """Reads a state dict with explicit activation and offset."""
    return sd.formats.state_dict.read(file, activation=sd.JumpReLU(), input_offset="none")


def _checkpoint(library: str, case: str) -> Target:
    """Returns a checkpoint that was written by another library, with its reader."""
    return Target(lambda folder: shutil.copytree(CHECKPOINTS / library / case, folder, dirs_exist_ok=True), sd.load)


TARGETS: dict[str, Target] = {
    "dictionary": Target(lambda folder: dictionary().save(folder), sd.load),
    "some latents": Target(
        lambda folder: autoencoder().save(folder), lambda folder: sd.load(folder, latents=[3, 7, 2])
    ),
    "activation store": Target(_store, _served),
    "a run's checkpoint": Target(_run, read_checkpoint),
    "SAELens": _checkpoint("sae_lens", "gated"),
    "SAELens before 6": _checkpoint("sae_lens", "old_topk"),
    "sparsify": _checkpoint("sparsify", "transcoder_skip"),
    "dictionary_learning": _checkpoint("dictionary_learning", "matryoshka"),
    "dictionary_learning, gated": _checkpoint("dictionary_learning", "gated"),
    "Gemma Scope": _checkpoint("gemma_scope", "first"),
    "Gemma Scope 2": _checkpoint("gemma_scope", "second_affine"),
    "circuit-tracer": _checkpoint("circuit_tracer", "jump_relu_skip"),
    "circuit-tracer, cross layer": _checkpoint("circuit_tracer_clt", "jump_relu"),
    "Gemma Scope 2, cross layer": _checkpoint("gemma_scope_clt", "affine"),
    "Llamascopium": _checkpoint("llamascopium", "jumprelu"),
    "Qwen-Scope": Target(_qwen_scope, lambda folder: sd.formats.qwen_scope.read(folder, layer=3, k=4)),
    "Llama Scope": Target(_llama_scope, sd.load),
    "state dict": Target(
        lambda folder: torch.save({"state_dict": _weights() | {"threshold": torch.ones(12)}}, folder / "mine.pt"),
        lambda folder: _by_hand(folder / "mine.pt"),
    ),
    "state dict, safetensors": Target(
        lambda folder: save_tensors(folder / "mine.safetensors", _weights(), {}),
        lambda folder: _by_hand(folder / "mine.safetensors"),
    ),
    "report": Target(_report, lambda folder: sd.load(folder / "student.pt")),
}
"""Targets by name."""


def make_input(target: str, number: int, sound: Path, folder: Path) -> str:
    """Damages one of the valid files, and returns its name."""
    chance = random.Random(f"{target}/{number}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    file = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if chance.random() < 0.03:
        file.unlink()
        if chance.random() < 0.5:
            file.symlink_to(chance.choice(["/etc/passwd", "/dev/zero", "../..", file.name]))
        return f"{file.name} missing or a link"
    file.write_bytes(broken(file.read_bytes(), file.name, chance))
    return file.name


def outcome(target: Target, folder: Path) -> str:
    """Returns the outcome of reading: loaded, rejected, or a description of the failure."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
    except target.allowed as error:
        return "refused" if len(str(error)) < 4000 else "crash: a message of more than 4,000 characters"
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return f"crash: {type(error).__name__} at {where}: {str(error)[:200]}"
    return "loaded"


def work(name: str, first: int, last: int, folder: str, progress: Any, results: Any) -> None:
    """Reads the inputs in a separate process and reports the current input."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    target, sound, case = TARGETS[name], Path(folder) / "sound", Path(folder) / "case"
    os.chdir(folder)
    for number in range(first, last):
        broken_file = make_input(name, number, sound, case)
        with progress.get_lock():
            progress[0], progress[1] = number, time.monotonic()
        results.put((number, broken_file, outcome(target, case)))
    results.put(None)


def fuzz(name: str, n_inputs: int, limit: float) -> dict[str, Any]:
    """Reads damaged files of a target, and returns the outcomes."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    cases: list[dict[str, Any]] = []
    slow: set[int] = set()
    begin, first = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sound").mkdir()
        TARGETS[name].write(Path(folder) / "sound")
        if outcome(TARGETS[name], Path(folder) / "sound") != "loaded":
            raise SystemExit(f"{name}: the valid files can't be read: {outcome(TARGETS[name], Path(folder) / 'sound')}")
        while first < n_inputs:
            progress = context.Array("d", [first, time.monotonic() + 60])
            results = context.Queue()
            worker = context.Process(target=work, args=(name, first, n_inputs, folder, progress, results))
            worker.start()
            while first < n_inputs:
                try:
                    found = results.get(timeout=0.5)
                except Exception:
                    stuck = time.monotonic() - progress[1] > limit
                    if worker.is_alive() and not stuck:
                        continue
                    number = int(progress[0])
                    what = "hang" if worker.is_alive() else f"crash: the process ended with {worker.exitcode}"
                    worker.kill()
                    worker.join()
                    if number not in slow:  # the machine may have been busy with something else: once more
                        slow.add(number)
                        first = number
                        break
                    found = (number, "?", what)
                if found is None:
                    break
                number, broken_file, what = found
                first = number + 1
                counts[what.partition(":")[0]] += 1
                if what.startswith(("crash", "hang")):
                    cases.append({"number": number, "file": broken_file, "what": what})
                if not worker.is_alive() and results.empty():
                    break
            worker.join(timeout=10)
        if (Path(folder) / "fuzz-pickle").exists():
            counts["crash"] += 1
            cases.append({"number": -1, "file": "?", "what": "crash: code of a pickle was executed"})
    sums = {what: counts[what] for what in ("loaded", "refused", "crash", "hang")}
    return {"inputs": first, **sums, "seconds": round(time.monotonic() - begin), "cases": cases[:50]}


def guided(target: str, seconds: int) -> dict[str, Any]:
    """Runs `benchmarks.fuzz_atheris` in a separate process, and returns its counts.

    Args:
        target: Name of the target.
        seconds: Duration of the run.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.fuzz_atheris", target, str(seconds), folder]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        printed = ran.stdout + ran.stderr
    runs = re.search(r"Done (\d+) runs", printed) or re.search(r"(?s).*#(\d+)\t", printed)
    if runs is None:
        raise SystemExit(printed[-2000:])
    covered = re.findall(r"cov: (\d+)", printed)
    return {
        "inputs": int(runs.group(1)),
        "crash": int(
            "Uncaught Python exception" in printed or "deadly signal" in printed or "out-of-memory" in printed
        ),
        "hang": int("ERROR: libFuzzer: timeout" in printed),
        "seconds": seconds,
        "covered": int(covered[-1]) if covered else 0,
        "cases": [] if ran.returncode == 0 else [printed[-1500:]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=20_000, help="for each target (default 20,000)")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds after which reading counts as a hang")
    parser.add_argument("--show", type=int, help="recreate one input in ./fuzz-case and print its outcome")
    parser.add_argument(
        "--atheris", type=int, metavar="SECONDS", help="duration of coverage-guided fuzzing of each target"
    )
    arguments = parser.parse_args()
    if arguments.show is not None:
        with tempfile.TemporaryDirectory() as sound:
            name = arguments.targets[0]
            TARGETS[name].write(Path(sound))
            print(make_input(name, arguments.show, Path(sound), Path("fuzz-case")))
            print(outcome(TARGETS[name], Path("fuzz-case")))
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name in arguments.targets:
        if arguments.atheris is None:
            label, found = name, fuzz(name, arguments.inputs, arguments.limit)
        else:
            label, found = f"{name}, guided by atheris", guided(name, arguments.atheris)
        results[label] = found
        print(f"{label}: {json.dumps(found)}", flush=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    total = {what: sum(result.get(what, 0) for result in results.values()) for what in ("inputs", "crash", "hang")}
    print(f"{total['inputs']:,} inputs, {total['crash']:,} crashes, {total['hang']:,} hangs")


if __name__ == "__main__":
    main()
