"""Completeness and frozen interventions for every kind of dictionary and activation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd
from circuits._models import all_sites, assert_complete, randomised, transcoders
from pairs import pairwise
from sites import _models
from sparsedict.pages.exports import graph_content

DOUBLE = torch.float64
ACTIVATIONS = [
    sd.ReLU(),
    sd.TopK(5),
    sd.BatchTopK(5),
    sd.AbsTopK(5),
    sd.JumpReLU(0.3),
    sd.Gated(),
    sd.GroupMax(8),
    sd.GELU(),
    sd.GELU("tanh"),
    sd.SiLU(),
]


def model_and_sites(family: str = "gpt2") -> tuple[nn.Module, sd.Sites]:
    model = _models.hugging_face(family).double()
    return model, all_sites(family, model)


def set_thresholds(*dictionaries: sd.Dictionary) -> None:
    """Sets the thresholds of BatchTopK, which training measures."""
    for dictionary in dictionaries:
        for name, value in dictionary.activation_state.state_dict().items():
            if name.endswith("threshold"):
                value.fill_(0.2)


def checked_graph(sites: sd.Sites, dictionaries: Any, **options: Any) -> sd.circuits.AttributionGraph:
    graph = sd.circuits.attribute(sites, dictionaries, _models.tokens(1), targets=[3, 4], **options)
    assert_complete(graph)
    assert graph.checked is not None
    assert graph.checked.frozen_error < 1e-9
    torch.testing.assert_close(graph.checked.predicted, graph.checked.frozen, atol=1e-9, rtol=1e-7)
    return graph


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activations(activation: sd.Activation) -> None:
    _, sites = model_and_sites()
    dictionaries = transcoders(sites, DOUBLE, activation=activation)
    set_thresholds(*dictionaries.values())
    graph = checked_graph(sites, dictionaries)
    captured = sites.capture(_models.tokens(1))
    for node, value in zip(graph.nodes, graph.values, strict=True):
        if node.kind == "latent":
            assert node.layer is not None
            name = graph.layers[node.layer]
            latents = dictionaries[name].encode(captured[f"{name}.inputs"][0, node.position])
            torch.testing.assert_close(latents[node.latent], value)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activations_in_single_precision(activation: sd.Activation) -> None:
    sites = all_sites("gpt2", _models.hugging_face("gpt2"))
    dictionaries = transcoders(sites, torch.float32, activation=activation)
    set_thresholds(*dictionaries.values())
    graph = sd.circuits.attribute(sites, dictionaries, _models.tokens(1), targets=[3, 4], check=0)
    assert len(graph.of_kind("latent"))
    assert graph.completeness_error < 1e-5  # relative to all effects, which can be hundreds of times the value


@pytest.mark.parametrize(
    "options",
    [
        {"skip": False},
        {"input_bias": True},
        {"input_norm": sd.InputScale(0.3)},
        {"input_norm": sd.InputRMSNorm()},
        {"input_norm": sd.InputLayerNorm()},
    ],
    ids=repr,
)
def test_distillers(options: dict[str, Any]) -> None:
    _, sites = model_and_sites()
    checked_graph(sites, transcoders(sites, DOUBLE, **options))


def test_constants_are_those_of_the_biases() -> None:
    """For an affine encoder, the constant is the encoder's value at the input that biases alone give."""
    model, sites = model_and_sites()
    dictionaries = transcoders(sites, DOUBLE, skip=False, activation=sd.ReLU())
    graph = sd.circuits.attribute(sites, dictionaries, _models.tokens(1), targets=[3])
    first = [i for i, node in enumerate(graph.nodes) if node.kind == "latent" and node.layer == 0]
    block = model.transformer.h[0]
    captured: list[Tensor] = []
    handle = block.mlp.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    with sd.circuits.frozen(sites, _models.tokens(1)), torch.no_grad():
        no_tokens = model.transformer.wte.register_forward_hook(lambda *args: torch.zeros_like(args[2]))
        model(_models.tokens(1))
    handle.remove()
    no_tokens.remove()
    zero = captured[-1][0]
    for index in first:
        node = graph.nodes[index]
        expected = (
            dictionaries["0"].encoder[node.latent] @ zero[node.position] + dictionaries["0"].encoder_bias[node.latent]
        )
        torch.testing.assert_close(graph.constants[index], expected)


@pytest.mark.parametrize(
    ("layout", "skip", "activation"),
    pairwise(
        [sd.LaterLayers(), sd.NextLayers(1), sd.NextLayers(0), sd.TiedDecoders(sd.LaterLayers())],
        [False, True],
        [sd.ReLU(), sd.PerLayer(sd.TopK(5)), sd.BatchTopK(5)],
    ),
    ids=repr,
)
def test_cross_layer(layout: sd.DecoderLayout, skip: bool, activation: sd.Activation) -> None:
    model, sites = model_and_sites("llama")
    dictionary = sd.CrossLayerDistiller(
        sites, 32, activation=activation, decoder_norm=sd.Free(), layout=layout, skip=skip, dtype=DOUBLE
    )
    randomised(dictionary)
    dictionary.input_scale.copy_(torch.tensor([0.5, 2.0, 1.5]))
    dictionary.output_scale.copy_(torch.tensor([1.5, 0.7, 2.0]))
    set_thresholds(dictionary)
    graph = checked_graph(sites, dictionary)
    assert {node.layer for node in graph.nodes if node.kind == "latent"} == {0, 1, 2}
    model.float()
    single = sd.circuits.attribute(sites, dictionary.float(), _models.tokens(1), targets=[3, 4], check=0)
    assert len(single.of_kind("latent"))
    assert single.completeness_error < 1e-5


def test_cross_layer_that_selects_among_all_layers() -> None:
    _, sites = model_and_sites()
    dictionary = randomised(
        sd.CrossLayerDistiller(sites, 32, activation=sd.TopK(12), decoder_norm=sd.Free(), dtype=DOUBLE)
    )
    graph = checked_graph(sites, dictionary)
    layers = {node.layer for node in graph.nodes if node.kind == "latent"}
    assert len(layers) > 1
    reach = {node.layer: graph.edges[:, i].count_nonzero() for i, node in enumerate(graph.nodes) if node.layer == 0}
    assert reach
    skip = sd.CrossLayerDistiller(sites, 32, activation=sd.TopK(12), decoder_norm=sd.Free(), dtype=DOUBLE, skip=True)
    with pytest.raises(ValueError, match="must run layer by layer if it has a skip"):
        sd.circuits.attribute(sites, randomised(skip), _models.tokens(1))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_neurons(family: str) -> None:
    _, sites = model_and_sites(family)
    graph = checked_graph(sites, {name: site.neurons for name, site in sites.items()})
    # Neurons reproduce the MLP, so that there is no error.
    errors = graph.values[graph.of_kind("error")]
    assert float(errors.max()) < 1e-9
    assert graph.replacement_score > 1 - 1e-9
    assert graph.n_for(0.8) > 0


class Halves:
    """A dictionary of another library, with a bilinear encoder."""

    reads = "inputs"

    def __init__(self, d: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.a, self.b = torch.randn(2, 24, d, generator=generator, dtype=DOUBLE)
        self.rows = torch.randn(24, d, generator=generator, dtype=DOUBLE)

    def encode(self, x: Tensor) -> Tensor:
        return ((x @ self.a.T) * (x @ self.b.T)).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.rows + 0.5


def test_other_objects() -> None:
    _, sites = model_and_sites()
    checked_graph(sites, {name: Halves(site.d_in) for name, site in sites.items()})


class Bilinear(sd.SparseDistiller):
    """A kind whose encoder isn't affine."""

    def pre_activations(self, x: Tensor) -> Tensor:
        return super().pre_activations(x) * (1 + 0.1 * x.sum(-1, keepdim=True))


def test_own_kind_with_another_encoder() -> None:
    _, sites = model_and_sites()
    checked_graph(
        sites,
        {name: Bilinear(16, 16, 48, activation=sd.TopK(6), decoder_norm=sd.Free(), dtype=DOUBLE) for name in sites},
    )


def test_several_dictionaries_on_some_sites() -> None:
    _, sites = model_and_sites()
    made = transcoders(sites, DOUBLE)
    graph = checked_graph(sites, {"1": [made["1"], made["0"]]})
    latents = [node for node in graph.nodes if node.kind == "latent"]
    assert {node.layer for node in latents} == {1}
    assert {node.dictionary for node in latents} == {0, 1}
    assert len({(node.position, node.latent) for node in latents}) < len(latents)  # Both have some latents.
    assert len({(node.label, node.position) for node in latents}) == len(latents)
    everywhere = graph.check(nodes=graph.of_kind("latent").tolist())
    torch.testing.assert_close(everywhere.predicted, everywhere.frozen, atol=1e-9, rtol=1e-7)
    cosines = graph.neuron_cosines()
    neurons = torch.nn.functional.normalize(sites["1"].neurons.decoder, dim=-1)
    for node, cosine in zip(graph.nodes, cosines, strict=True):
        if node.kind == "latent":
            row = made[("1", "0")[node.dictionary]].decoder.detach()[node.latent]
            torch.testing.assert_close(cosine, (neurons @ row).max() / row.norm())
    for number, message in ((None, "since 2 dictionaries read '1', got None"), (2, "from 0 to 1 in '1', got 2")):
        target = sd.circuits.Latent("1", latents[0].latent, latents[0].position, dictionary=number)
        with pytest.raises(ValueError, match=f"`dictionary` must be.*{message}"):
            sd.circuits.attribute(sites, {"1": [made["1"], made["0"]]}, _models.tokens(1), targets=target)
    with pytest.raises(ValueError, match="`graph` must have one dictionary in the layer '1'"):
        graph_content(graph)
    # A site without a dictionary is an error term as a whole.
    written = sites.capture(_models.tokens(1))["2.outputs"][0].norm(dim=-1)
    errors = [i for i, node in enumerate(graph.nodes) if node.kind == "error" and node.layer == 2]
    torch.testing.assert_close(graph.values[errors], written)


@pytest.mark.parametrize("number", [0, 1])
def test_latents_of_several_dictionaries_as_targets(number: int) -> None:
    _, sites = model_and_sites()
    made = transcoders(sites, DOUBLE)
    given = {"1": [made["1"], made["0"]]}
    latents = made[("1", "0")[number]].encode(sites.capture(_models.tokens(1))["1.inputs"][0, -1])
    latent = int(latents.argmax())
    target = sd.circuits.Latent("1", latent, dictionary=number)
    graph = sd.circuits.attribute(sites, given, _models.tokens(1), targets=target, check=0)
    assert (graph.nodes[-1].latent, graph.nodes[-1].dictionary) == (latent, number)
    torch.testing.assert_close(graph.values[-1], latents[latent])


def test_excluded_positions() -> None:
    model = _models.hugging_face("gpt2").double()
    paths = {str(layer): f"transformer.h.{layer}.mlp" for layer in range(3)}
    sites = sd.Sites(model, paths, exclude_first=2)
    graph = checked_graph(sites, transcoders(sites, DOUBLE))
    assert min(node.position for node in graph.nodes if node.kind == "latent" and node.position is not None) == 2


@pytest.mark.parametrize("max_latents", [1, 7, 40])
def test_limits(max_latents: int) -> None:
    _, sites = model_and_sites()
    dictionaries = transcoders(sites, DOUBLE)
    whole = sd.circuits.attribute(sites, dictionaries, _models.tokens(1), targets=[3, 4])
    graph = sd.circuits.attribute(sites, dictionaries, _models.tokens(1), targets=[3, 4], max_latents=max_latents)
    assert_complete(graph)
    assert len(graph.of_kind("latent")) == max_latents
    assert len(graph.of_kind("token", "error")) <= max_latents
    assert len(graph.of_kind("rest")) > 0
    assert len(whole.of_kind("rest")) == 0
    # The value of a rest is the norm of the sum of all latents and error terms of its layer without a node.
    captured, own = sites.capture(_models.tokens(1)), dictionaries["0"]
    x, written = captured["0.inputs"][0], captured["0.outputs"][0]
    with torch.no_grad():
        latents = own.encode(x)
        error = written - own.reconstruct(latents, x)
        total = written - own.reconstruct(torch.zeros_like(latents), x)
    for node, value in zip(graph.nodes, graph.values, strict=True):
        if node.layer == 0 and node.kind == "latent":
            total[node.position] -= value * own.decoder.detach()[node.latent]
        elif node.layer == 0 and node.kind == "error":
            total[node.position] -= error[node.position]
    rest = next(i for i, node in enumerate(graph.nodes) if node.kind == "rest" and node.layer == 0)
    torch.testing.assert_close(graph.values[rest], total.norm())
    # Edges between nodes of both graphs are equal.
    keys = {(node.kind, node.layer, node.position, node.latent, node.token): i for i, node in enumerate(whole.nodes)}
    common = [
        (i, keys[key])
        for i, node in enumerate(graph.nodes)
        if node.kind != "rest" and (key := (node.kind, node.layer, node.position, node.latent, node.token)) in keys
    ]
    here, there = (list(own) for own in zip(*common, strict=True))
    torch.testing.assert_close(graph.edges[here][:, here], whole.edges[there][:, there])
