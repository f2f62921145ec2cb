"""Falsely exclusive latents of crosscoders under L1 and BatchTopK: ``python -m benchmarks.exclusive``.

Two synthetic models share all of their 24 features, half of which are weaker in the second model. No feature is
exclusive to a model, so every latent with more than 90 % of its decoder norm in one model is falsely exclusive. The
benchmark trains crosscoders with several L1 coefficients and several k of BatchTopK, and compares each L1 crosscoder
with the BatchTopK crosscoder of the nearest FVU. The table shows mean and range over seeds. A seed determines the
features, the data and the initial weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.nn.functional import normalize

import sparsedict as sd
from benchmarks.spread import nearest, table

RESULTS = Path(__file__).parent / "results" / "exclusive.json"
D = 16
N_FEATURES = 24
N_ACTIVE = 2
WEAK = 0.3
N_HELD_OUT = 8_192


def sample(seed: int, n_tokens: int) -> sd.Activations:
    """Returns activations of the two models."""
    generator = torch.Generator().manual_seed(seed)
    base, tuned = (normalize(torch.randn(N_FEATURES, D, generator=generator), dim=-1) for _ in range(2))
    strength = torch.where(torch.arange(N_FEATURES) < N_FEATURES // 2, WEAK, 1.0)
    values = torch.rand(n_tokens, N_FEATURES, generator=generator).add(0.5)
    codes = values * (torch.rand(n_tokens, N_FEATURES, generator=generator) < N_ACTIVE / N_FEATURES)
    return sd.Activations({"base.outputs": codes @ base, "tuned.outputs": codes @ (tuned * strength[:, None])})


def trainees(coefficients: list[float], ks: list[int], n_latents: int, seed: int) -> dict[str, sd.Trainee]:
    """Returns a crosscoder for each coefficient and each k."""

    def made(activation: sd.Activation, norm: sd.DecoderNorm) -> sd.Crosscoder:
        generator = torch.Generator().manual_seed(seed)
        parts: dict[str, Any] = {"activation": activation, "decoder_norm": norm, "generator": generator}
        return sd.Crosscoder({"base": D, "tuned": D}, n_latents, **parts)

    found = {
        f"L1({c})": sd.Trainee(made(sd.ReLU(), sd.Free()), [sd.WarmUp(sd.PointNormWeighted(sd.L1(c)), 20)])
        for c in coefficients
    }
    top = {f"BatchTopK({k})": sd.Trainee(made(sd.BatchTopK(k), sd.UnitNorm()), [sd.AuxK(dead_after=4_000)]) for k in ks}
    return found | top


@torch.no_grad()
def measure(dictionary: sd.Dictionary, held_out: sd.Activations) -> dict[str, float]:
    """Returns FVU, L0, and the numbers of live latents that are exclusive to a model."""
    inputs, targets = dictionary.select(held_out)
    latents, reconstruction = dictionary(inputs)
    active = latents != 0
    shares = sd.analysis.decoder_shares(dictionary, dead=~active.any(0))
    return {
        "FVU": float(sd.metrics.fvu(reconstruction, targets)),
        "L0": float(active.sum(1).float().mean()),
        "live": float(active.any(0).sum()),
        "exclusive to base": float(len(shares.exclusive["base.outputs"])),
        "exclusive to tuned": float(len(shares.exclusive["tuned.outputs"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coefficients", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 3, 4], help="active latents per token")
    parser.add_argument("--n-latents", type=int, default=32, help="latents of each crosscoder")
    parser.add_argument("--n-tokens", type=int, default=60_000, help="training tokens")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    options = parser.parse_args()
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.seeds):
        batch = sample(seed, options.n_tokens // 4 + N_HELD_OUT)
        train, held_out = (
            sd.Activations({name: part[own] for name, part in batch.items()})
            for own in (slice(N_HELD_OUT, None), slice(N_HELD_OUT))
        )
        own = trainees(options.coefficients, options.k, options.n_latents, seed)
        sd.fit_many(own, train, n_tokens=options.n_tokens, batch_size=256, seed=seed, progress=False)
        for name, trainee in own.items():
            for key, value in measure(trainee.dictionary, held_out).items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    print(table(rows))
    top = [name for name in rows if name.startswith("BatchTopK")]
    for name in (name for name in rows if name not in top):
        other = nearest(rows, name, top, "FVU")
        both = ({key: mean(values) for key, values in rows[own].items()} for own in (name, other))
        found = [f"{row['exclusive to base']:.1f} at FVU {row['FVU']:.2f}" for row in both]
        print(f"exclusive to base: {name} {found[0]}, {other} {found[1]}")
    settings = {name: value for name, value in vars(options).items() if name != "out"}
    options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
