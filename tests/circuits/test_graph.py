"""Influence, pruning, scores and checks of graphs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd
from circuits._models import all_sites, transcoders
from sites import _models
from sparsedict.circuits import AttributionGraph, Logit, Node, attribute, influence

TOKENS = _models.tokens(1)


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    model = _models.hugging_face("gpt2").double()
    sites = all_sites("gpt2", model)
    return attribute(sites, transcoders(sites, torch.float64), TOKENS)


def test_influence_is_the_sum_over_paths(graph: AttributionGraph) -> None:
    size = graph.edges.abs()
    normalised = size / size.sum(1, keepdim=True).clamp_min(1e-300)
    inverse = torch.linalg.inv(torch.eye(len(graph), dtype=torch.float64) - normalised)
    torch.testing.assert_close(graph.influence, graph.weights @ inverse - graph.weights)
    # All influence ends in nodes without incoming edges.
    ends = graph.of_kind("token", "error", "rest")
    assert float(graph.influence[ends].sum()) == pytest.approx(1.0)
    torch.testing.assert_close(influence(graph.edges, graph.weights), graph.influence)


def test_scores(graph: AttributionGraph) -> None:
    size = graph.edges.abs()
    normalised = size / size.sum(1, keepdim=True).clamp_min(1e-300)
    tokens, errors = graph.of_kind("token"), graph.of_kind("error")
    reached = graph.influence
    assert graph.replacement_score == pytest.approx(float(reached[tokens].sum()))
    computed = graph.of_kind("latent", "target")
    importance = (reached + graph.weights)[computed]
    explained = 1 - normalised[computed][:, errors].sum(1)
    assert graph.completeness_score == pytest.approx(float((explained * importance).sum() / importance.sum()))
    assert 0 < graph.replacement_score < graph.completeness_score < 1


@pytest.mark.parametrize("node", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("edge", [0.5, 0.98])
def test_pruning(graph: AttributionGraph, node: float, edge: float) -> None:
    small = graph.pruned(node, edge)
    assert small.is_pruned
    assert len(small) <= len(graph)
    index = [graph.nodes.index(own) for own in small.nodes]
    assert index == sorted(index)
    torch.testing.assert_close(small.values, graph.values[index])
    whole = graph.edges[index][:, index]
    assert bool(((small.edges == whole) | (small.edges == 0)).all())
    kinds = [own.kind for own in small.nodes]
    assert kinds.count("token") == TOKENS.shape[1]
    assert kinds.count("target") == len(graph.targets)
    # Every node that isn't fixed leads to a target, and every latent has a source.
    for i, own in enumerate(small.nodes):
        if own.kind in ("latent", "error"):
            assert small.edges[:, i].any()
        if own.kind == "latent":
            assert small.edges[i].any()
    inner = [i for i, own in enumerate(graph.nodes) if own.kind in ("latent", "error")]
    kept = [i for i in inner if i in index]
    if node < 1 and edge == 0.98:
        # The kept nodes are the most influential ones, apart from those that lost all edges.
        order = graph.influence.argsort(descending=True)
        needed = int((graph.influence[order].cumsum(0) < node * graph.influence.sum()).sum()) + 1
        assert set(kept) <= set(order[:needed].tolist())
    assert (
        graph.pruned(1.0, 1.0).edges.count_nonzero()
        == graph.edges[:, graph.influence + graph.weights > 0].count_nonzero()
    )


def test_pruning_is_monotone(graph: AttributionGraph) -> None:
    sizes = [len(graph.pruned(node, 1.0)) for node in (0.1, 0.5, 0.9, 1.0)]
    assert sizes == sorted(sizes)
    with pytest.raises(ValueError, match="`node`"):
        graph.pruned(0.0)
    with pytest.raises(ValueError, match="`edge`"):
        graph.pruned(0.5, 1.1)


def test_smallest_numbers_of_latents(graph: AttributionGraph) -> None:
    scores = graph.influence[graph.of_kind("latent")].sort(descending=True).values
    for share in (0.5, 0.8, 0.99):
        n = graph.n_for(share)
        assert float(scores[:n].sum()) >= share * float(scores.sum())
        assert float(scores[: n - 1].sum()) < share * float(scores.sum())


def test_interventions(graph: AttributionGraph) -> None:
    for factor in (0.0, 3.0, -1.0):
        check = graph.check(5, factor=factor)
        assert len(check.nodes) == 5
        torch.testing.assert_close(check.predicted, check.frozen, atol=1e-10, rtol=1e-8)
        assert check.predicted.abs().min() > 0
    assert graph.checker is not None
    zero = graph.checker.run(graph, check.nodes, 1.0)
    assert float(zero.predicted.abs().max()) == 0
    assert float(zero.frozen.abs().max()) < 1e-12
    assert float(zero.unfrozen.abs().max()) < 1e-12
    top = graph.of_kind("latent")[graph.influence[graph.of_kind("latent")].argmax()]
    assert graph.check(1).nodes == (int(top),)
    with pytest.raises(ValueError, match="`nodes` must be indices of latents, tokens or error terms, got"):
        graph.check(nodes=graph.targets[:1].tolist())
    with pytest.raises(ValueError, match="needs the model of the graph"):
        replace(graph, checker=None).check()


@pytest.mark.parametrize("held", ["unfrozen", "both_held"])
def test_interventions_are_those_of_the_model(held: str) -> None:
    model = _models.hugging_face("gpt2").double()
    sites = all_sites("gpt2", model)
    dictionaries = transcoders(sites, torch.float64)
    graph = attribute(sites, dictionaries, TOKENS, targets=[3, Logit(4, centred=False)])
    check = graph.check(8)
    context = sd.circuits.frozen(sites, TOKENS) if held == "both_held" else nullcontext()
    with torch.no_grad(), context:
        before = model(TOKENS).logits[0, -1]
        for row, index in zip(getattr(check, held), check.nodes, strict=True):
            node = graph.nodes[index]
            name = graph.layers[node.layer]

            def ablated(latents: Tensor, node: Node = node) -> Tensor:
                changed = latents.clone()
                changed[..., node.position, node.latent] = 0.0
                return changed

            with sites[name].replaced(dictionaries[name], intervention=ablated, error_term=True):
                after = model(TOKENS).logits[0, -1]
            change = after - before
            torch.testing.assert_close(row, torch.stack([change[3] - change.mean(), change[4]]))


@pytest.mark.parametrize("factor", [0.0, 2.5])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_tokens_and_error_terms_are_intervened_on(family: str, factor: float) -> None:
    model = _models.hugging_face(family).double()
    sites = all_sites(family, model)
    graph = attribute(sites, transcoders(sites, torch.float64), TOKENS, targets=[3, 4], check=0)
    both = graph.of_kind("token", "error").tolist()
    latent = int(graph.of_kind("latent")[0])
    check = graph.check(nodes=[*both, latent], factor=factor)
    torch.testing.assert_close(check.predicted, check.frozen, atol=1e-9, rtol=1e-7)
    assert {graph.nodes[index].layer for index in both} == {None, 0, 1, 2}
    last = len(graph.tokens) - 1  # the last layer acts on the logits at its own position only
    acts = torch.tensor(
        [(graph.nodes[index].layer, graph.nodes[index].position == last) != (2, False) for index in both]
    )
    assert torch.equal((check.predicted[: len(both)] != 0).any(1), acts)
    torch.testing.assert_close(check.unfrozen[-1:], graph.check(nodes=[latent], factor=factor).unfrozen)


def test_interventions_on_tokens_and_error_terms_are_those_of_the_model() -> None:
    model = _models.hugging_face("gpt2").double()
    sites = all_sites("gpt2", model)
    dictionaries = transcoders(sites, torch.float64)
    graph = attribute(sites, dictionaries, TOKENS, targets=[Logit(4, centred=False)], check=0)
    token, error = (int(graph.of_kind(kind)[3]) for kind in ("token", "error"))
    check = graph.check(nodes=[token, error])
    captured = sites.capture(TOKENS)

    def without_token(_: nn.Module, __: object, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, graph.nodes[token].position] = 0.0
        return changed

    def without_error(_: nn.Module, __: object, output: Tensor) -> Tensor:
        node, changed = graph.nodes[error], output.clone()
        x, y = (captured[f"{node.layer}.{end}"][0, node.position] for end in ("inputs", "outputs"))
        dictionary = dictionaries[str(node.layer)]
        changed[:, node.position] -= y - dictionary.reconstruct(dictionary.encode(x[None]), x[None])[0]
        return changed

    blocks = model.transformer
    for row, module, hook in zip(
        check.unfrozen,
        (blocks.wte, blocks.h[graph.nodes[error].layer or 0].mlp),
        (without_token, without_error),
        strict=True,
    ):
        with torch.no_grad():
            before = model(TOKENS).logits[0, -1, 4]
            handle = module.register_forward_hook(hook)
            after = model(TOKENS).logits[0, -1, 4]
            handle.remove()
        torch.testing.assert_close(row[0], after - before)


@pytest.mark.parametrize("without", ["norms", "attention"])
def test_only_parts_that_the_model_has_make_a_difference(without: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
            self.mlps = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2))
            self.head = nn.Linear(8, 20)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            for mlp in self.mlps:
                x = x + mlp(x if without == "norms" else self.norm(x))
                if without != "attention":
                    x = x + nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
            return self.head(x)

    torch.manual_seed(0)
    sites = sd.Sites(Model().double(), {"0": "mlps.0", "1": "mlps.1"})
    neurons = {name: site.neurons for name, site in sites.items()}
    check = attribute(sites, neurons, torch.arange(5), targets=[1]).check(8)
    same, other = {"norms": ("attention_held", "norms_held"), "attention": ("norms_held", "attention_held")}[without]
    torch.testing.assert_close(getattr(check, same), check.both_held)
    torch.testing.assert_close(getattr(check, other), check.unfrozen)
    assert (check.both_held - check.unfrozen).abs().max() > 1e-3
    assert (check.both_held - check.frozen).abs().max() > 1e-4


def test_a_graph_shows_its_check(graph: AttributionGraph) -> None:
    assert graph.checked is not None
    text = repr(graph)
    assert f"correlation {graph.checked.correlation:.3f}" in text
    assert f"median relative error {graph.checked.median_relative_error:.1%}" in text
    assert "<table>" in graph._repr_html_()
    unchecked = replace(graph, checked=None)
    assert "correlation" in repr(unchecked)
    assert unchecked.checked is not None
    assert "not run" in repr(replace(graph, checked=None, checker=None))


def test_a_pruned_graph_has_its_own_check(graph: AttributionGraph) -> None:
    assert graph.subgraph(torch.ones(len(graph), dtype=torch.bool)).checked is graph.checked
    small = graph.pruned()
    assert small.checked is None
    assert "due to removed nodes and edges" in repr(small)
    assert "due to" not in repr(graph)
    own = small.checked
    assert own is not None
    assert own.is_pruned
    assert all(small.nodes[i].kind == "latent" for i in own.nodes)
    # The model is the same, but not the predictions.
    whole = graph.check(nodes=[graph.nodes.index(small.nodes[i]) for i in own.nodes])
    torch.testing.assert_close(own.frozen, whole.frozen)
    torch.testing.assert_close(own.unfrozen, whole.unfrozen)
    assert own.frozen_error > 1e-4 > whole.frozen_error


def test_correlation_and_error() -> None:
    predicted, measured = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0], [6.0]])
    held = {"norms_held": measured, "attention_held": 2 * measured, "both_held": predicted, "frozen": predicted}
    check = sd.circuits.Check((0, 1, 2), 0.0, predicted, measured, **held)
    assert [round(error, 2) for *_, error in check.rows()] == [0.5, 0.5, 0.75, 0.0]
    assert check.correlation == pytest.approx(1.0)
    assert check.median_relative_error == pytest.approx(0.5)
    assert check.frozen_error == 0.0
    one = sd.circuits.Check((0,), 0.0, predicted[:1], measured[:1], **{name: own[:1] for name, own in held.items()})
    assert one.correlation != one.correlation
    assert "correlation -" in repr(one)


def test_dictionaries_that_are_the_mlps_have_exact_first_order_effects() -> None:
    """For neurons, small interventions on the model itself have nearly the predicted effects."""
    model = _models.hugging_face("gpt2").double()
    sites = all_sites("gpt2", model)
    graph = attribute(sites, {name: site.neurons for name, site in sites.items()}, TOKENS, targets=[3])
    last = [i for i, node in enumerate(graph.nodes) if node.kind == "latent" and node.layer == 2][:5]
    check = graph.check(nodes=last, factor=1 + 1e-6)
    # After the last MLP there is only a norm, whose denominator is held.
    assert check.correlation > 0.9


def test_neuron_simulators() -> None:
    model = _models.hugging_face("gpt2").double()
    sites = all_sites("gpt2", model)
    dictionaries = transcoders(sites, torch.float64)
    with torch.no_grad():
        # Half of the latents write along a neuron.
        for name, dictionary in dictionaries.items():
            dictionary.decoder[::2] = 3 * sites[name].neurons.decoder[:24]
    graph = attribute(sites, dictionaries, TOKENS, targets=[3])
    cosines = graph.neuron_cosines()
    for node, cosine in zip(graph.nodes, cosines.tolist(), strict=True):
        if node.kind != "latent":
            assert cosine != cosine
            continue
        name = graph.layers[node.layer]
        rows = torch.nn.functional.normalize(sites[name].neurons.decoder, dim=-1)
        row = torch.nn.functional.normalize(dictionaries[name].decoder.detach()[node.latent], dim=-1)
        assert cosine == pytest.approx(float((rows @ row).max()))
        assert (cosine > 0.999) == (node.latent % 2 == 0)
    small = graph.pruned()
    index = [graph.nodes.index(node) for node in small.nodes]
    torch.testing.assert_close(small.neuron_cosines(), cosines[index], equal_nan=True)


@pytest.mark.as_installed
def test_bad_arguments_of_a_graph(graph: AttributionGraph) -> None:
    for keep, message in (
        (np.ones(len(graph), bool), "`keep` must be a mask of the nodes.*got ndarray"),
        (torch.ones(len(graph)), "`keep` must be a mask of the nodes.*got a tensor of torch.float32"),
        (torch.ones(3, dtype=torch.bool), f"`keep` must have an entry for each of {len(graph)} nodes, got"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            graph.subgraph(keep)
    for nodes in ("a", [], [1.5], [-1], [10**6]):
        with pytest.raises((TypeError, ValueError), match="`nodes"):
            graph.check(nodes=nodes)
    for factor in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="`factor` must be finite, got"):
            graph.check(2, factor=factor)
    with pytest.raises(ValueError, match="`factor` must differ from 1, which changes nothing"):
        graph.check(2, factor=1)
    without = graph.subgraph(~graph._mask("latent"))
    with pytest.raises(ValueError, match=r"`nodes` must be given.* no latents"):
        without.check()
    assert "none, since no latent has a node" in repr(without)
    with pytest.raises(ValueError, match="`kinds` must be one of 'token', 'latent'"):
        graph.of_kind("latents")
