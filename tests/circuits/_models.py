"""Sites of all MLPs of small models, and transcoders for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import sparsedict as sd
from sites import _models

N_LATENTS = 48


def all_sites(family: str, model: nn.Module) -> sd.Sites:
    """Returns the MLPs of all layers of a model of a family, and the nonlinear head of BERT."""
    place = _models.FAMILIES[family][-1]
    found = {}
    for layer in range(3):
        paths = [path.replace(".1.", f".{layer}.") for path in ([place] if isinstance(place, str) else place)]
        found[str(layer)] = (
            sd.Site(model, paths[0]) if len(paths) == 1 else sd.Site(model, reads=paths[0], writes=paths[1])
        )
    if family == "bert":
        parts = "cls.predictions.transform"
        found["head"] = sd.Site(model, reads=f"{parts}.dense:in", writes=f"{parts}.transform_act_fn:out")
    return sd.Sites(found)


def randomised(dictionary: Any) -> Any:
    """Draws all weights, so that no term of a sum is zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in dictionary.named_parameters():
            scale = 0.2 if "skip" in name else 0.5
            if name in ("encoder_bias", "decoder_bias", "input_bias") or "skip" in name or "gate" in name:
                value.copy_(scale * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return dictionary


def transcoders(sites: Mapping[str, sd.Site], dtype: torch.dtype, **options: Any) -> dict[str, sd.SparseDistiller]:
    """Returns a transcoder with a skip for every site."""
    options = {"activation": sd.TopK(5), "skip": True, **options}
    found = {}
    for index, (name, site) in enumerate(sites.items()):
        generator = torch.Generator().manual_seed(index)
        found[name] = randomised(
            sd.SparseDistiller(
                site.d_in, site.d_out, N_LATENTS, decoder_norm=sd.Free(), dtype=dtype, generator=generator, **options
            )
        )
    return found


def assert_complete(graph: sd.circuits.AttributionGraph, tolerance: float = 1e-8) -> None:
    """Asserts that values are the sums of edges and constants, and that edges lead from earlier to later nodes."""
    sums = graph.edges.sum(-1) + graph.constants
    torch.testing.assert_close(sums, graph.values, atol=tolerance, rtol=tolerance)
    assert graph.edges.triu().count_nonzero() == 0
    assert graph.edges.count_nonzero() > 0
    assert graph.edges.isfinite().all()
