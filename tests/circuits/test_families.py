"""The direct effects of a graph add up to the values of its nodes, for every family."""

from __future__ import annotations

import pytest
import torch

import sparsedict as sd
from circuits._models import all_sites, assert_complete, transcoders
from sites import _models


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", _models.FAMILIES)
def test_hugging_face(family: str, dtype: torch.dtype) -> None:
    model = _models.hugging_face(family).to(dtype)
    sites = all_sites(family, model)
    tokens = _models.tokens(1)
    graph = sd.circuits.attribute(
        sites, transcoders(sites, dtype), tokens, targets=[3, 4, sd.circuits.LogitDifference(5, 6)]
    )
    assert graph.before_cap is (family == "gemma2")
    assert graph.deviation < (1e-12 if dtype == torch.float64 else 1e-5)
    assert graph.completeness_error < (1e-12 if dtype == torch.float64 else 1e-5)
    if dtype == torch.float64:
        assert_complete(graph)
        assert graph.checked is not None
        assert graph.checked.frozen_error < 1e-10
    # The latents of the last layer have an effect on the logits.
    last = [i for i, node in enumerate(graph.nodes) if node.kind == "latent" and node.layer == 2]
    assert last
    assert graph.edges[graph.targets][:, last].count_nonzero() > 0
    if family != "gemma2":
        with torch.no_grad():
            logits = sites["0"].logits(tokens)[0, -1]
        expected = torch.stack([logits[3] - logits.mean(), logits[4] - logits.mean(), logits[5] - logits[6]])
        torch.testing.assert_close(graph.values[graph.targets], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not support fold_ln")
# Compatibility mode folds norms: LayerNorm in GPT-2 and OPT, RMSNorm in Llama and Gemma.
@pytest.mark.parametrize(
    ("family", "compatible"),
    [
        *((family, False) for family in ("gpt2", "gpt_neo", "gpt_neox", "llama", "phi3")),
        *((family, True) for family in ("gpt2", "llama", "gemma2", "opt")),
    ],
)
def test_transformer_bridge(family: str, compatible: bool, tmp_path) -> None:
    model = _models.bridge(family, tmp_path)
    if compatible:
        model.enable_compatibility_mode(disable_warnings=True)
    sites = sd.Sites(model, {str(layer): f"blocks.{layer}.mlp" for layer in range(3)})
    graph = sd.circuits.attribute(sites, transcoders(sites, torch.float32), _models.tokens(1), targets=[3])
    assert graph.completeness_error < 1e-5
    assert graph.checked is not None
    assert graph.checked.frozen_error < 1e-4


def test_model_of_no_library() -> None:
    model = _models.Plain().double()
    sites = sd.Sites(
        {
            "first": sd.Site(model, reads="first.up:in", writes="first.down:out"),
            "middle": sd.Site(model, "mlp"),
            "last": sd.Site(model, reads="last.up:in", writes="last.down:out"),
        }
    )
    graph = sd.circuits.attribute(sites, transcoders(sites, torch.float64), _models.tokens(1), targets=[3])
    assert graph.layers == ("first", "middle", "last")
    assert_complete(graph)


def test_edges_are_the_effects_of_single_latents() -> None:
    """An independent reference: the effect of a latent is measured by removing it while all others are held."""
    model = _models.hugging_face("llama").double()
    sites = all_sites("llama", model)
    dictionaries = transcoders(sites, torch.float64, skip=False)
    tokens = _models.tokens(1)
    graph = sd.circuits.attribute(sites, dictionaries, tokens, targets=[sd.circuits.Logit(3, centred=False)])
    captured = sites.capture(tokens)
    target = int(graph.targets[0])
    for layer, name in enumerate(sites):
        index = next(i for i, node in enumerate(graph.nodes) if node.kind == "latent" and node.layer == layer)
        node = graph.nodes[index]
        written = graph.values[index] * dictionaries[name].decoder[node.latent]
        outputs = {other: captured[f"{other}.outputs"].clone() for other in sites}
        outputs[name][0, node.position] -= written
        with torch.no_grad(), sd.circuits.frozen(sites, tokens), HeldOutputs(sites, outputs):
            changed = sites[name].logits(tokens)[0, -1, 3]
        torch.testing.assert_close(graph.values[target] - changed, graph.edges[target, index], atol=1e-7, rtol=1e-6)


class HeldOutputs:
    """Context in which sites write given outputs."""

    def __init__(self, sites: sd.Sites, outputs: dict[str, torch.Tensor]) -> None:
        self._parts = sites, outputs

    def __enter__(self) -> None:
        sites, outputs = self._parts
        self._handles = [site.writes.attach(lambda _, name=name: outputs[name]) for name, site in sites.items()]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
