"""Attribution graphs of sparsedict and of circuit-tracer: ``python -m benchmarks.attribution_peer``.

Both attribute the same prompt in the same GPT-2 of random weights, with the same transcoders: sparsedict in
transformers' model, circuit-tracer in a `HookedTransformer` with a copy of the weights. The benchmark compares all
direct effects on latents and logits. A difference is relative to the largest effect on the same target.

Some nodes are in one graph only and aren't compared. circuit-tracer leaves out the latents and error terms of the first
position; the benchmark reports their share of the effects in sparsedict's graph. sparsedict leaves out latents that
reach no target; the benchmark checks that circuit-tracer has no effects of them.

Requires circuit-tracer; see README.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import sparsedict as sd
from benchmarks import circuit_tracer_model as peer

RESULTS = Path(__file__).parent / "results" / "attribution_peer.json"
KINDS = ("token", "latent", "error")
BIAS, THRESHOLD, K = -1.6, 0.3, 24
N_TARGETS = 5

Key = tuple[Any, ...]


def gpt2(sizes: dict[str, int], dtype: torch.dtype) -> Any:
    """Returns a GPT-2 of random weights. They are larger than GPT-2's own, so that attention isn't uniform."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=sizes["n_layers"],
        n_embd=sizes["d"],
        n_head=sizes["n_heads"],
        n_positions=2 * sizes["n_tokens"],
        vocab_size=sizes["n_vocabulary"],
        initializer_range=0.1,
    )
    model: Any = GPT2LMHeadModel(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.1)
    return model.to(dtype).eval()


def transcoders(kind: str, sites: sd.Sites, n_latents: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Returns transcoders of random weights for sparsedict and for circuit-tracer."""
    generator = torch.Generator().manual_seed(1)
    activation: Any = {
        "ReLU": sd.ReLU(),
        "JumpReLU": sd.JumpReLU(THRESHOLD),
        "JumpReLU, skip": sd.JumpReLU(THRESHOLD),
        "TopK": sd.TopK(K),
        "cross-layer ReLU": sd.ReLU(),
        "cross-layer JumpReLU": sd.JumpReLU(THRESHOLD),
    }[kind]
    common: dict[str, Any] = {
        "activation": activation,
        "decoder_norm": sd.UnitNorm(),
        "generator": generator,
        "dtype": dtype,
    }
    d = next(iter(sites.values())).d_in
    if kind.startswith("cross-layer"):
        ours: Any = sd.CrossLayerDistiller(sites, n_latents, **common)
        made = [ours]
    else:
        ours = {name: sd.SparseDistiller(d, d, n_latents, skip=kind.endswith("skip"), **common) for name in sites}
        made = list(ours.values())
    with torch.no_grad():
        for one in made:
            # circuit-tracer's TopK selects negative values too, if fewer than k are positive.
            one.encoder_bias.fill_(0.0 if kind == "TopK" else BIAS)
            one.decoder_bias.normal_(std=0.1, generator=generator)
            if getattr(one, "skip", None) is not None:
                one.skip.normal_(std=0.3 / d**0.5, generator=generator)
    theirs = peer.cross_layer(ours, list(sites)) if kind.startswith("cross-layer") else peer.single_layer(ours)
    return ours, theirs


def keys_of_ours(graph: sd.circuits.AttributionGraph) -> list[Key]:
    """Returns what each node is."""
    return [
        {
            "token": ("token", node.position),
            "latent": ("latent", node.layer, node.position, node.latent),
            "error": ("error", node.layer, node.position),
            "target": ("target", node.token),
            "rest": ("rest", node.layer),
        }[node.kind]
        for node in graph.nodes
    ]


def keys_of_theirs(graph: Any, n_layers: int) -> list[Key]:
    """Returns what each node of circuit-tracer is, as `keys_of_ours`."""
    latents = graph.active_features[graph.selected_features].tolist()
    return [
        *(("latent", layer, position, latent) for layer, position, latent in latents),
        *(("error", layer, position) for layer in range(n_layers) for position in range(graph.n_pos)),
        *(("token", position) for position in range(graph.n_pos)),
        *(("target", target.vocab_idx) for target in graph.logit_targets),
    ]


def is_of_first_position(key: Key) -> bool:
    """Whether circuit-tracer leaves out the node."""
    return key[0] in ("latent", "error") and key[2] == 0


def compare(ours: sd.circuits.AttributionGraph, theirs: Any) -> dict[str, Any]:
    """Returns the largest relative difference of the direct effects, by the kinds of target and source."""
    of_ours = {key: i for i, key in enumerate(keys_of_ours(ours))}
    of_theirs = {key: i for i, key in enumerate(keys_of_theirs(theirs, len(ours.layers)))}
    nodes = [key for key in of_ours if not is_of_first_position(key)]
    missing = [key for key in nodes if key not in of_theirs]
    extra = [key for key in of_theirs if key not in of_ours and not is_of_first_position(key)]
    effective = [key for key in extra if bool(theirs.adjacency_matrix[:, of_theirs[key]].any())]
    if missing or effective:
        raise AssertionError(f"Nodes with effects are in one graph only: {missing[:3]}, {effective[:3]}.")
    left, right = (torch.tensor([own[key] for key in nodes]) for own in (of_ours, of_theirs))
    a, b = ours.edges.double()[left][:, left], theirs.adjacency_matrix.double()[right][:, right]
    kinds = [key[0] for key in nodes]
    found: dict[str, Any] = {"n_nodes": len(nodes), "n_edges": int((a != 0).sum()), "n_without_effects": len(extra)}
    for target in ("latent", "target"):
        rows = _where(kinds, target)
        scale = a[rows].abs().amax(1, keepdim=True).clamp_min(1e-30)
        for source in KINDS:
            columns = _where(kinds, source)
            own = (a[rows][:, columns] - b[rows][:, columns]).abs() / scale
            found[f"{source} to {target}"] = float(own.max())
    first = torch.tensor([i for key, i in of_ours.items() if is_of_first_position(key)])
    later = torch.tensor([of_ours[key] for key in nodes if key[0] in ("latent", "target")])
    effects = ours.edges[later].abs()
    found["share of the first position"] = float((effects[:, first].sum(1) / effects.sum(1)).mean())
    found["completeness_error"] = ours.completeness_error
    return found


def _where(kinds: list[str], kind: str) -> Tensor:
    return torch.tensor([i for i, own in enumerate(kinds) if own == kind])


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result of a function, and its processor time."""
    begin = time.process_time()
    return function(), time.process_time() - begin


def measure(kind: str, dtype: torch.dtype, sizes: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Compares the graphs with one kind of transcoder. The two libraries take turns."""
    from circuit_tracer.attribution.attribute import attribute  # pyright: ignore[reportMissingImports]

    model = gpt2(sizes, dtype)
    sites = sd.Sites(model, {str(i): f"transformer.h.{i}.mlp" for i in range(sizes["n_layers"])})
    ours, theirs = transcoders(kind, sites, sizes["n_latents"], dtype)
    replacement = peer.replacement_model(model, theirs)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, sizes["n_vocabulary"], (sizes["n_tokens"],), generator=generator)
    tokens[0] = 0
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
        difference = float((logits - replacement(tokens[None])[0]).abs().max() / logits.abs().max())
    targets = logits[-1].topk(N_TARGETS).indices

    def of_ours() -> sd.circuits.AttributionGraph:
        return sd.circuits.attribute(sites, ours, tokens, targets=targets, max_latents=100_000, check=0)

    def of_theirs(batch_size: int) -> Any:
        return attribute(tokens, replacement, attribution_targets=targets, batch_size=batch_size)

    turns: dict[str, Callable[[], Any]] = {"sparsedict": of_ours}
    turns |= {f"circuit-tracer, batches of {size}": partial(of_theirs, size) for size in options.batch_sizes}
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    graphs: dict[str, Any] = {}
    for i in range(options.rounds + 1):
        for name in list(turns)[:: 1 if i % 2 else -1]:
            graphs[name], own = timed(turns[name])
            if i:
                seconds[name].append(own)
    compared = [compare(graphs["sparsedict"], graph) for name, graph in graphs.items() if name != "sparsedict"]
    return {
        "transcoders": kind,
        "dtype": str(dtype).removeprefix("torch."),
        "difference of the logits": difference,
        **{name: max(one[name] for one in compared) for name in compared[0]},
        "cpu_seconds": {name: median(own) for name, own in seconds.items()},
        "all_cpu_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-layers", type=int, default=4)
    parser.add_argument("--d", type=int, default=64, help="width of the model")
    parser.add_argument("--n-heads", type=int, default=4)
    parser.add_argument("--n-vocabulary", type=int, default=512)
    parser.add_argument("--n-latents", type=int, default=256, help="latents of each layer")
    parser.add_argument("--n-tokens", type=int, default=16)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[16, 32, 128], help="targets of circuit-tracer's backward passes"
    )
    parser.add_argument("--rounds", type=int, default=3, help="timed graphs of each library, after an untimed one")
    parser.add_argument("--kinds", nargs="+", help="kinds of transcoders, such as 'JumpReLU'")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {name: getattr(options, name) for name in ("n_layers", "d", "n_heads", "n_vocabulary", "n_latents")}
    sizes["n_tokens"] = options.n_tokens
    every = ["ReLU", "JumpReLU", "JumpReLU, skip", "TopK", "cross-layer ReLU", "cross-layer JumpReLU"]
    rows = []
    for kind in options.kinds or every:
        for dtype in options.dtypes:
            rows.append(measure(kind, getattr(torch, dtype), sizes, options))
            print(json.dumps(rows[-1]), flush=True)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "kinds")}
    versions = {name: version(name) for name in ("torch", "transformers", "transformer_lens", "circuit-tracer")}
    found = {"settings": settings, "versions": versions, "rows": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
