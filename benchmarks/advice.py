"""Whether the advice of `sd.analysis.diagnose` helps: ``python -m benchmarks.advice``.

Five kinds of synthetic activations have one property each: a few dimensions with a huge mean and variance, a large
mean, huge first tokens, a low rank, and none of these. For each kind and seed, an autoencoder and a distiller are
trained with the defaults and with the advice, at the same k. FVU is measured on held-out tokens, without those that the
advice excludes. Parts of the advice that change the meaning of a dictionary (``skip``) are left out with ``--no-skip``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

import sparsedict as sd
from benchmarks.spread import table
from sparsedict.data.synthetic import PowerLaw, SyntheticFeatures

RESULTS = Path(__file__).parent / "results" / "advice.json"
D, N_FEATURES, CONTEXT = 32, 96, 64
KINDS = ("clean", "outlier dimensions", "large mean", "huge tokens", "low rank")


def changed(kind: str, x: Tensor, positions: Tensor, generator: torch.Generator) -> Tensor:
    """Returns activations with the property of a kind."""
    direction = normalize(torch.randn(D, generator=generator), dim=0)
    if kind == "outlier dimensions":
        factor = torch.ones(D)
        factor[torch.randperm(D, generator=generator)[:2]] = 20
        return factor * x + 2 * (factor - 1).clamp_min(0)
    if kind == "large mean":
        return x + 20 * direction
    if kind == "huge tokens":
        return x + 60 * (positions == 0)[:, None] * direction
    if kind == "low rank":
        basis = torch.linalg.qr(torch.randn(D, 6, generator=generator))[0]
        return x @ basis @ basis.T
    return x


def sample(kind: str, seed: int, n_tokens: int) -> sd.Activations:
    """Returns activations of a kind, with token ids and positions. The id of the first position is 0."""
    batch, _ = SyntheticFeatures(D, N_FEATURES, 4, seed, frequencies=PowerLaw(0.5)).sample(n_tokens, seed=seed + 1)
    positions = torch.arange(n_tokens) % CONTEXT
    generator = torch.Generator().manual_seed(seed + 2)
    points = {name: changed(kind, value, positions, generator) for name, value in batch.items()}
    ids = torch.randint(1, 200, (n_tokens,), generator=generator) * (positions > 0)
    return sd.Activations(points, tokens=ids, positions=positions)


def kept(batch: sd.Activations, site: dict[str, Any]) -> Tensor:
    """Returns the indices of the tokens that a site with the advised options keeps."""
    assert batch.positions is not None
    assert batch.tokens is not None
    first = batch.positions >= site.get("exclude_first", 0)
    excluded = torch.isin(batch.tokens, torch.tensor(site.get("exclude_tokens", ()), dtype=torch.long))
    return (first & ~excluded).nonzero().flatten()


def made(name: str, options: dict[str, Any], k: int, n_latents: int, seed: int) -> sd.Dictionary:
    parts: dict[str, Any] = {"activation": sd.TopK(k), "decoder_norm": sd.UnitNorm(), **options}
    parts["generator"] = torch.Generator().manual_seed(seed)
    if name == "autoencoder":
        return sd.SparseAutoencoder(D, n_latents, **parts)
    return sd.SparseDistiller(D, D, n_latents, **parts)


def compared(kind: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns FVU and share of dead latents of each dictionary, trained with and without the advice."""
    n_held_out = options.n_tokens // 8
    batch = sample(kind, seed, options.n_tokens + n_held_out)
    train, held_out = batch.rows(slice(options.n_tokens)), batch.rows(slice(options.n_tokens, None))
    advice = sd.analysis.diagnose(train).advice
    k = min(options.k, advice.k)
    test = held_out.rows(kept(held_out, dict(advice.site)))
    found = {}
    for followed, rows in ((False, train), (True, train.rows(kept(train, dict(advice.site))))):
        own = {"autoencoder": dict(advice.autoencoder), "distiller": dict(advice.distiller)} if followed else {}
        if options.no_skip:
            own.get("distiller", {}).pop("skip", None)
        trainees = {
            name: sd.Trainee(made(name, own.get(name, {}), k, options.n_latents, seed))
            for name in ("autoencoder", "distiller")
        }
        data = sd.Activations(dict(rows))
        sd.fit_many(trainees, data, n_tokens=options.n_tokens, batch_size=256, seed=seed, progress=False)
        for name, trainee in trainees.items():
            found[f"{kind}, {name}, {'advice' if followed else 'default'}"] = measured(trainee.dictionary, test)
    print(kind, seed, [f"{part.subject}: {part.advice}" for part in advice.findings if part.changes], flush=True)
    return found


@torch.no_grad()
def measured(dictionary: sd.Dictionary, batch: sd.Activations) -> dict[str, float]:
    inputs, targets = dictionary.eval().select(batch)
    latents, reconstruction = dictionary(inputs)
    active = latents != 0
    return {
        "FVU": float(sd.metrics.fvu(reconstruction, targets)),
        "L0": float(active.sum(1).float().mean()),
        "dead": float((~active.any(0)).float().mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n-tokens", type=int, default=40_000)
    parser.add_argument("--n-latents", type=int, default=96)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--no-skip", action="store_true", help="leave the advised skip out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rows: dict[str, dict[str, list[float]]] = {}
    for kind in options.kinds:
        for seed in options.seeds:
            for name, numbers in compared(kind, seed, options).items():
                for column, value in numbers.items():
                    rows.setdefault(name, {}).setdefault(column, []).append(round(value, 5))
    print(table(rows, form=".3f"))
    for name in (name for name in rows if name.endswith("default")):
        pair = [mean(rows[own]["FVU"]) for own in (name, name.replace("default", "advice"))]
        print(f"{name.removesuffix(', default')}: advice changes FVU by a factor of {pair[1] / pair[0]:.2f}")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "kinds")}
    options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
