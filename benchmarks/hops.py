"""Do cross-layer dictionaries turn two hops into single hops? ``python -m benchmarks.hops``.

The data are activations of `SyntheticLayers`: two MLPs whose features are known. MLP 1 computes some features from
features of MLP 0 (two hops from the residual stream) and some from the stream alone (one hop). Latents of a cross-layer
dictionary that read MLP 0 may write the output of MLP 1, and so replace the second hop.

For each true feature of MLP 1 the benchmark measures, on held-out tokens on which the feature is active:

- own: the output along the feature's direction that latents of MLP 1 write, over the true output.
- earlier: the same for latents of MLP 0, which write to the output of MLP 1.
- recovered: whether a latent of MLP 1 has a correlation and a decoder cosine above 0.9 with the feature.
- bypassed: whether a latent of MLP 0 has both, with its decoder block for MLP 1.

Every dictionary has the same number of latents. There are several k of TopK in each layer and several coefficients of
the L1 penalty, so that both can be compared at the same L0, the number of active latents of both layers. The table
shows means over features of one hop (1) and of two hops (2), and the range over seeds. A seed determines the truth, the
data and the initial weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks.spread import nearest, table
from sparsedict.data import SyntheticLayers

RESULTS = Path(__file__).parent / "results" / "hops.json"
D = 128
N_GROUPS = 40
ACTIVE_GROUPS = 3.0
THRESHOLD = 0.9
Results = dict[tuple[str, str], dict[str, float]]
"""Measurements by kind and rule."""
KINDS = {"per layer": sd.NextLayers(0), "cross layer": sd.LaterLayers()}


def rules(
    ks: Sequence[int], coefficients: Sequence[float]
) -> dict[str, tuple[sd.Activation, sd.DecoderNorm, Sequence[sd.Penalty]]]:
    """Returns the compared activations, each with its decoder norm and penalties."""
    found: dict[str, tuple[sd.Activation, sd.DecoderNorm, Sequence[sd.Penalty]]] = {}
    for k in ks:
        found[f"TopK({k})"] = (sd.PerLayer(sd.TopK(k)), sd.UnitNorm(), [sd.AuxK()])
    for coefficient in coefficients:
        found[f"L1({coefficient})"] = (sd.ReLU(), sd.Free(), [sd.NormWeighted(sd.L1(coefficient))])
    return found


def measure(dictionary: sd.CrossLayerDistiller, truth: SyntheticLayers, seed: int) -> dict[str, float]:
    """Returns the measurements of a trained dictionary, as means over the features of MLP 1 by their hops."""
    batch, codes = truth.sample(20_000, seed=seed)
    inputs, targets = dictionary.select(batch)
    with torch.no_grad():
        latents = dictionary.encode(inputs)
        reconstruction = dictionary.reconstruct(latents, inputs)
        columns = slice(D, 2 * D)
        decoder = dictionary.decoder[:, columns] * dictionary.output_scale[1]
    is_own = torch.arange(dictionary.n_latents) >= dictionary.latents_of("1").start
    results = {"fvu": sd.metrics.fvu(reconstruction, targets), "l0": float((latents != 0).sum(-1).float().mean())}
    for hops in (1, 2):
        chosen = ((truth.layers == 1) & (truth.hops == hops)).nonzero().squeeze(-1)
        rows = [_feature(latents, decoder, is_own, truth.writes[i], codes[:, i]) for i in chosen.tolist()]
        for name in rows[0]:
            results[f"{name} {hops}"] = mean(row[name] for row in rows)
    return results


def _feature(latents: Tensor, decoder: Tensor, is_own: Tensor, direction: Tensor, code: Tensor) -> dict[str, float]:
    along = decoder @ direction
    fires = code > 0
    own, earlier = (float((latents[fires][:, of] @ along[of]).sum()) for of in (is_own, ~is_own))
    centred = latents - latents.mean(0)
    correlation = centred.T @ (code - code.mean()) / (centred.norm(dim=0) * (code - code.mean()).norm()).clamp_min(1e-9)
    cosine = along / decoder.norm(dim=-1).clamp_min(1e-9)
    matches = (correlation > THRESHOLD) & (cosine > THRESHOLD)
    return {
        "own": own / float(code[fires].sum()),
        "earlier": earlier / float(code[fires].sum()),
        "recovered": float(matches[is_own].any()),
        "bypassed": float(matches[~is_own].any()),
    }


def run(
    seed: int,
    n_latents: int,
    k: Sequence[int],
    coefficients: Sequence[float],
    n_tokens: int,
    checkpoints: Path | None = None,
) -> Results:
    """Trains and measures every dictionary of one seed. An interrupted training is resumed from its checkpoint."""
    truth = SyntheticLayers(D, N_GROUPS, l0=ACTIVE_GROUPS, seed=seed)
    batch = truth.sample(min(n_tokens, 200_000), seed=1000 + seed)[0]
    trained: dict[tuple[str, str], sd.CrossLayerDistiller] = {}
    trainees: dict[str, sd.Trainee] = {}
    for kind, layout in KINDS.items():
        for rule, (activation, norm, penalties) in rules(k, coefficients).items():
            generator = torch.Generator().manual_seed(seed)
            parts = {"activation": activation, "decoder_norm": norm, "layout": layout, "generator": generator}
            dictionary = sd.CrossLayerDistiller({"0": D, "1": D}, n_latents, **parts)
            trained[kind, rule] = dictionary
            trainees[f"{kind}, {rule}"] = sd.Trainee(dictionary, penalties)
    folder = None if checkpoints is None else checkpoints / str(seed)
    options: dict[str, Any] = {"checkpoint": folder, "resume": folder is not None, "progress": False}
    sd.fit_many(trainees, batch, n_tokens=n_tokens, batch_size=512, seed=seed, **options)
    return {key: measure(dictionary, truth, 2000 + seed) for key, dictionary in trained.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--n-latents", type=int, default=64, help="latents of each layer; each has 40 true features")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 3, 4], help="active latents of each layer under TopK")
    parser.add_argument(
        "--coefficients", type=float, nargs="+", default=[0.0125, 0.025, 0.05], help="of the L1 penalty"
    )
    parser.add_argument("--n-tokens", type=int, default=200_000, help="training tokens")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write, after each seed")
    parser.add_argument("--resume", action="store_true", help="continue with the seeds that the file lacks")
    parser.add_argument("--checkpoints", type=Path, default=None, help="folder of checkpoints of unfinished seeds")
    options = parser.parse_args()
    settings = {
        name: value for name, value in vars(options).items() if name not in ("out", "seeds", "resume", "checkpoints")
    }
    rows: list[dict[str, Any]] = []
    done = 0
    if options.resume and options.out.exists():
        document = json.loads(options.out.read_text(encoding="utf-8"))
        done = document["settings"].pop("seeds")
        if document["settings"] != settings:
            parser.error(f"--resume needs the settings of {options.out}, which are {document['settings']}")
        rows = document["rows"]
    for seed in range(done, options.seeds):
        found = run(seed, **settings, checkpoints=options.checkpoints)
        rows = rows or [{"kind": kind, "rule": rule, "values": {}} for kind, rule in found]
        for row in rows:
            for name, value in found[row["kind"], row["rule"]].items():
                row["values"].setdefault(name, []).append(value)
        document = {"settings": settings | {"seeds": seed + 1}, "rows": rows}
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    values = {f"{row['kind']}, {row['rule']}": row["values"] for row in rows}
    print(table(values))
    for kind in KINDS:
        top = [name for name in values if name.startswith(f"{kind}, TopK")]
        for name in values:
            if name.startswith(f"{kind}, L1"):
                print(f"{name} has an L0 like {nearest(values, name, top, 'l0')}.")


if __name__ == "__main__":
    main()
