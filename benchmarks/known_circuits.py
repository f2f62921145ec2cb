"""Edges that attribution graphs find, compared with the known circuits of a synthetic network.

``python -m benchmarks.known_circuits`` builds a residual network of MLPs whose neurons compute known features of known
parents (`sparsedict.data.SyntheticLayers`). A graph is made for each token. An edge between two latents is *found* if
its direct effect is positive and has at least a given share of all direct effects on its target. It is *true* if the
feature of the source is a parent of the feature of the target. Latents are identified by their decoder rows. The graphs
use the network's own neurons, and transcoders that are trained on the network's activations. Targets are features of
the last layer at the end of a chain. Directions of features aren't orthogonal, so there are also small effects between
features that aren't related.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.data import SyntheticLayers

RESULTS = Path(__file__).parent / "results" / "known_circuits.json"
COSINE = 0.8
"""Least cosine of a latent's decoder row with the direction of its feature."""
GAIN, THRESHOLD = 2.0, 1.5


class Network(nn.Module):
    """The network of `SyntheticLayers`. Tokens are samples of given features. Logits are projections on features."""

    def __init__(self, truth: SyntheticLayers, n_tokens: int, seed: int) -> None:
        super().__init__()
        samples, self.strengths = truth.sample(n_tokens, seed=seed)
        self.embedding = nn.Embedding.from_pretrained(samples["0.inputs"])
        self.mlps = nn.ModuleList(self._mlp(truth, layer) for layer in range(truth.n_layers))
        self.head = nn.Linear(truth.directions.shape[1], len(truth.features), bias=False)
        self.head.weight.data = truth.writes.clone()

    @staticmethod
    def _mlp(truth: SyntheticLayers, layer: int) -> nn.Sequential:
        rows, own = [], [feature for feature in truth.features if feature.layer == layer]
        for feature in own:
            scales = [1 / GAIN if parent >= truth.n_given else 1.0 for parent in feature.parents]
            rows.append(torch.tensor(scales) @ truth.directions[list(feature.parents)])
        d = truth.directions.shape[1]
        up, down = nn.Linear(d, len(own)), nn.Linear(len(own), d, bias=False)
        up.weight.data, up.bias.data = torch.stack(rows), torch.full((len(own),), -THRESHOLD)
        down.weight.data = GAIN * truth.writes[truth.layers == layer].T
        return nn.Sequential(up, nn.ReLU(), down)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for mlp in self.mlps:
            x = x + mlp(x)
        return self.head(x)


def sites_of(network: Network) -> sd.Sites:
    return sd.Sites(network, {str(layer): f"mlps.{layer}" for layer in range(len(network.mlps))})


def trained(truth: SyntheticLayers, n_tokens: int, n_latents: int, k: int, seed: int) -> dict[str, Any]:
    """Returns a transcoder of each layer."""
    samples, _ = truth.sample(min(n_tokens, 100_000), seed=seed + 1)
    d = truth.directions.shape[1]
    found = {}
    for layer in range(truth.n_layers):
        generator = torch.Generator().manual_seed(seed)
        transcoder = sd.SparseDistiller(
            d, d, n_latents, activation=sd.TopK(k), decoder_norm=sd.UnitNorm(), generator=generator
        )
        data = samples[f"{layer}.inputs"], samples[f"{layer}.outputs"]
        sd.fit(transcoder, data, n_tokens=n_tokens, batch_size=512, seed=seed, progress=False)
        found[str(layer)] = transcoder
    return found


def features_of(truth: SyntheticLayers, dictionaries: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the feature that each latent writes, by layer; -1 for latents without one."""
    found = {}
    for name, dictionary in dictionaries.items():
        rows = nn.functional.normalize(dictionary.decoder.detach(), dim=-1)
        own = (truth.layers == int(name)).nonzero().flatten()
        cosine, best = (rows @ truth.writes[own].T).max(-1)
        found[name] = torch.where(cosine > COSINE, own[best], -1)
    return found


def compare(
    truth: SyntheticLayers, network: Network, dictionaries: Mapping[str, Any], n_prompts: int, share: float
) -> dict[str, float]:
    """Returns precision and recall of edges between latents, over tokens with a feature at the end of a chain."""
    sites, features = sites_of(network), features_of(truth, dictionaries)
    last = truth.hops == truth.n_layers
    tokens = (network.strengths * last).amax(1).nonzero().flatten()[:n_prompts].tolist()
    n_true = n_found = n_both = n_latents = 0
    for token in tokens:
        strengths = network.strengths[token]
        active = set((strengths > 0).nonzero().flatten().tolist())
        target = int((strengths * last).argmax())
        wanted = sd.circuits.Logit(target, centred=False)
        graph = sd.circuits.attribute(sites, dictionaries, torch.tensor([token]), targets=wanted, check=0)
        edges = graph.edges / graph.edges.abs().sum(1, keepdim=True).clamp_min(1e-30)
        owner = {
            i: int(features[graph.layers[node.layer]][node.latent])
            for i, node in enumerate(graph.nodes)
            if node.kind == "latent" and node.layer is not None and node.latent is not None
        }
        found = {(owner[i], owner[j]) for i in owner for j in owner if edges[i, j] >= share and owner[i] != owner[j]}
        expected = ancestors(truth, target, active)
        reached = {child for child, _ in expected} | {target}
        # Edges into features that don't lead to the target aren't part of its circuit.
        found = {(child, parent) for child, parent in found if child in reached}
        n_true, n_found, n_both = n_true + len(expected), n_found + len(found), n_both + len(expected & found)
        n_latents += len(owner)
    return {
        "precision": n_both / max(n_found, 1),
        "recall": n_both / max(n_true, 1),
        "n_true": n_true,
        "n_found": n_found,
        "latents_per_graph": n_latents / max(len(tokens), 1),
    }


def ancestors(truth: SyntheticLayers, feature: int, active: set[int]) -> set[tuple[int, int]]:
    """Returns the edges (child, parent) between active computed features that lead to a feature."""
    found: set[tuple[int, int]] = set()
    for parent in truth.features[feature].parents:
        own = parent - truth.n_given
        if own >= 0 and own in active:
            found |= {(feature, own)} | ancestors(truth, own, active)
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--d", type=int, nargs="*", default=[64, 128], help="widths; less width, more interference")
    parser.add_argument("--n-groups", type=int, default=20)
    parser.add_argument("--n-layers", type=int, default=3)
    parser.add_argument("--n-latents", type=int, default=40)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--n-tokens", type=int, default=200_000)
    parser.add_argument("--n-prompts", type=int, default=40)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.05, 0.1, 0.2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    rows = []
    for d in args.d:
        truth = SyntheticLayers(d, args.n_groups, args.n_layers, seed=args.seed)
        network = Network(truth, 2000, args.seed + 2)
        kinds = {
            "neurons": {name: site.neurons for name, site in sites_of(network).items()},
            "transcoders": trained(truth, args.n_tokens, args.n_latents, args.k, args.seed),
        }
        for kind, dictionaries in kinds.items():
            for share in args.shares:
                found = compare(truth, network, dictionaries, args.n_prompts, share)
                rows.append({"d": d, "kind": kind, "share": share, **found})
                print(json.dumps(rows[-1]), flush=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
