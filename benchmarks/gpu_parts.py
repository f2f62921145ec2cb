"""Parts of ``benchmarks.gpu_session``: ``python -m benchmarks.gpu_parts NAME --device DEVICE --out FOLDER``.

Each part rewrites ``FOLDER/NAME.json`` after each figure, so that a time limit doesn't lose earlier figures.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd

ACTIVATIONS: dict[str, Callable[[], sd.Activation]] = {
    "topk": lambda: sd.TopK(8),
    "abstopk": lambda: sd.AbsTopK(8),
    "batchtopk": lambda: sd.BatchTopK(8),
    "relu": sd.ReLU,
    "jumprelu": sd.JumpReLU,
    "gated": sd.Gated,
}
SHAPES = {"cuda": ((1024, 16_384, 4096, 32), (4096, 65_536, 4096, 64)), "cpu": ((16, 64, 32, 4), (32, 128, 32, 4))}


class Notes:
    """Writes each figure to the file of the part immediately."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._file = folder / f"{name}.json"
        self._figures: dict[str, Any] = {}

    def __call__(self, name: str, value: Any) -> None:
        self._figures[name] = value
        print(f"{name}: {value}", flush=True)
        self._file.write_text(json.dumps(self._figures, indent=1) + "\n", encoding="utf-8")


def check(device: torch.device, note: Notes) -> None:
    """Compares the gradients of a step and the sparse latents with float64 results on the CPU."""
    note("device", torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU")
    note("torch", torch.__version__)
    note("triton", _version("triton"))
    for name, activation in ACTIVATIONS.items():
        torch.manual_seed(0)
        on_cpu = sd.SparseAutoencoder(64, 512, activation=activation(), decoder_norm=sd.Free(), dtype=torch.float64)
        x = torch.randn(256, 64, dtype=torch.float64)
        expected = _gradients(on_cpu, x)
        for dtype, most in ((torch.float32, 1e-3), (torch.bfloat16, 0.1)):
            on_device = copy.deepcopy(on_cpu).to(device=device, dtype=torch.float32)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                found = _gradients(on_device, x.to(device, torch.float32))
            error = max(
                float((own.cpu().double() - right).norm() / right.norm().clamp_min(1e-12))
                for own, right in zip(found, expected, strict=True)
            )
            note(f"{name}, {dtype}, relative error of gradients", error)
            if error > most and dtype == torch.float32:
                raise SystemExit(f"{name} in {dtype}: gradients differ by {error:.3g}, more than {most}.")


def _gradients(dictionary: Any, x: Tensor) -> list[Tensor]:
    dictionary.train().zero_grad()
    sd.SquaredError()(dictionary.forward_pass(x, x)).backward()
    return [p.grad.detach() for p in dictionary.parameters() if p.grad is not None and p.grad.norm() > 0]


def step(device: torch.device, note: Notes) -> None:
    """Measures a sparse and a dense step relative to the encoder product in the same precision."""
    for d, n_latents, n_tokens, k in SHAPES[device.type]:
        for dtype in (torch.bfloat16, torch.float32):
            name = f"d {d:,}, {n_latents:,} latents, {n_tokens:,} tokens, k {k}, {str(dtype)[6:]}"
            torch.manual_seed(0)
            sae = sd.SparseAutoencoder(
                d, n_latents, activation=sd.TopK(k), decoder_norm=sd.UnitNorm(), device=device
            ).train()
            x = torch.randn(n_tokens, d, device=device)
            low, rows = x.to(dtype), sae.encoder.detach().to(dtype)
            block = torch.empty(n_tokens, n_latents, device=device, dtype=dtype)
            product = _seconds(device, lambda low=low, rows=rows, block=block: torch.mm(low, rows.T, out=block))
            note(f"{name}, product, ms", 1e3 * product)
            del block, rows
            for label, loss in (("ours", _ours(sae, x)), ("dense", _dense(sae, x, k))):
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                optimizer = torch.optim.Adam(sae.parameters(), lr=1e-7, fused=True)
                seconds = _seconds(device, _stepping(loss, optimizer, device, dtype))
                note(f"{name}, {label} over the product", seconds / product)
                if device.type == "cuda":
                    note(f"{name}, {label}, peak GiB", torch.cuda.max_memory_allocated(device) / 2**30)


def _ours(sae: Any, x: Tensor) -> Callable[[], Tensor]:
    return lambda: sd.SquaredError()(sae.forward_pass(x, x))


def _dense(sae: Any, x: Tensor, k: int) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        pre = torch.nn.functional.linear(x - sae.decoder_bias, sae.encoder, sae.encoder_bias)
        values, index = pre.topk(k, dim=-1)
        latents = torch.zeros_like(pre).scatter(-1, index, values.relu())
        return (latents @ sae.decoder.to(latents.dtype) + sae.decoder_bias - x).square().sum(-1).mean()

    return loss


def _stepping(
    loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    def once() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()

    return once


def _seconds(device: torch.device, call: Callable[[], Any], rounds: int = 10) -> float:
    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        return time.perf_counter() - start

    for _ in range(2):
        once()
    return median(once() for _ in range(rounds))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fit(device: torch.device, note: Notes) -> None:
    """Harvests from the embedded model and trains on it, in float32 and under bfloat16's autocast."""
    n_tokens, n_latents = (2048, 256) if device.type == "cpu" else (1_000_000, 2048)
    model = sd.zoo.load_model().to(device)
    site = sd.Site(model, "transformer.h.1.mlp", exclude_tokens=[0])
    tokens = sd.zoo.tokens("train", n_tokens=min(n_tokens, 500_000))
    start, n_tokens_yielded = time.perf_counter(), 0
    for batch in sd.ActivationStream(site, tokens, batch_size=4096):
        n_tokens_yielded += batch.n_tokens
    _wait(device)
    note("harvest, tokens per second", n_tokens_yielded / (time.perf_counter() - start))
    for dtype in (None, torch.bfloat16):
        torch.manual_seed(0)
        transcoder = sd.SparseDistiller(
            site.d_in, site.d_out, n_latents, activation=sd.TopK(32), decoder_norm=sd.UnitNorm(), device=device
        )
        stream = sd.ActivationStream(site, tokens, batch_size=1024)
        start = time.perf_counter()
        history = sd.fit(transcoder, stream, n_tokens=n_tokens, autocast=dtype, progress=False)
        _wait(device)
        name = "float32" if dtype is None else "autocast to bfloat16"
        note(f"fit, {name}, tokens per second", n_tokens / (time.perf_counter() - start))
        note(f"fit, {name}, FVU", float(history.last.fvu))


class _StopError(Exception):
    pass


def resume(device: torch.device, note: Notes) -> None:
    """Compares the weights of a resumed run with those of an uninterrupted run."""
    folder = note.folder / "resume"
    shutil.rmtree(folder, ignore_errors=True)
    x = sd.data.SyntheticFeatures(d=32, n_features=96, l0=4, seed=0).sample(8192, seed=1)[0].outputs.to(device)

    def made() -> Any:
        torch.manual_seed(0)
        return sd.SparseAutoencoder(32, 256, activation=sd.TopK(4), decoder_norm=sd.UnitNorm(), device=device)

    options: dict[str, Any] = {
        "n_tokens": 16_384,
        "batch_size": 512,
        "progress": False,
        "deterministic": True,
        "log_every": 4,
    }
    whole, half = made(), made()
    sd.fit(whole, x, **options)

    def stop(name: str, record: Any, dictionary: Any) -> None:
        if record.n_tokens >= 8192:
            raise _StopError

    with suppress(_StopError):
        sd.fit(half, x, **options, checkpoint=folder, checkpoint_every=4096, callbacks=[stop])
    note("checkpoints of the stopped run", len(list(folder.iterdir())))
    again = made()
    sd.fit(again, x, **options, checkpoint=folder, checkpoint_every=4096, resume=True)
    same = all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    note("equal bit for bit", same)
    if not same:
        raise SystemExit("The resumed run ended with other weights.")


def circuits(device: torch.device, note: Notes) -> None:
    """Compares an attribution graph with that of the CPU, in float64, and measures its time in float32."""
    max_latents = 32 if device.type == "cpu" else 512
    tokens = sd.zoo.load_tokenizer()("class A:\n    def area(", return_tensors="pt").input_ids
    graphs = []
    for place, dtype in ((torch.device("cpu"), torch.float64), (device, torch.float64), (device, torch.float32)):
        sites = sd.circuits.find_sites(sd.zoo.load_model().to(place, dtype))
        neurons = {name: site.neurons for name, site in sites.items()}
        start = time.perf_counter()
        graphs.append(sd.circuits.attribute(sites, neurons, tokens, targets=[5], max_latents=max_latents))
        _wait(device)
        seconds = time.perf_counter() - start
    expected, found, single = graphs
    note("graph, float32, seconds", seconds)
    note("completeness error, float64", found.completeness_error)
    note("completeness error, float32", single.completeness_error)
    note("error with everything held, float64", found.checked.frozen_error)
    note("difference of edges from the CPU, float64", float((found.edges - expected.edges).abs().max()))
    nodes = [[(node.kind, node.layer, node.position, node.latent) for node in graph.nodes] for graph in graphs[:2]]
    if nodes[0] != nodes[1] or not torch.allclose(found.edges, expected.edges, atol=1e-8):
        raise SystemExit("The graph differs from that of the CPU.")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


RUNS = {"check": check, "step": step, "fit": fit, "resume": resume, "circuits": circuits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=RUNS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here. Use `--device cpu` to test the part at toy size.")
    RUNS[args.part](device, Notes(args.out, args.part))


if __name__ == "__main__":
    main()
