"""Several MLPs replaced at once: contributions add up, layer by layer."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sparsedict as sd
from sparsedict.sites import Constant, Site, Sites

from . import _models
from .test_site import n_hooks

WIDTH, HIDDEN = _models.WIDTH, 12


class Layers(nn.Module):
    """A residual model whose second and third MLP are wider inside."""

    def __init__(self, n_layers: int = 3, widths: Sequence[int] = (WIDTH, WIDTH, WIDTH)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(_models.VOCABULARY, WIDTH)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, d)) for d in widths[:n_layers]
        )
        self.mix = nn.ModuleList(nn.Linear(d, WIDTH) for d in widths[:n_layers])
        self.head = nn.Linear(WIDTH, _models.VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for mlp, mix in zip(self.mlps, self.mix, strict=True):
            x = x + mix(mlp(x))
        return self.head(x)


def make_sites(model: nn.Module, **options: Any) -> Sites:
    n_layers = len(model.mlps)  # pyright: ignore[reportArgumentType]
    return Sites(model, {str(i): f"mlps.{i}" for i in range(n_layers)}, **options)


@dataclass(eq=False)
class Linear:
    """A dictionary of any points: latents are a linear map's, positive parts and negative parts."""

    reads: Any
    writes: Any
    encoder: Tensor
    decoder: Tensor

    def encode(self, x: Tensor) -> Tensor:
        h = x @ self.encoder.T
        return torch.cat([h, -h], -1).relu()

    def decode(self, latents: Tensor) -> Tensor:
        positive, negative = latents.chunk(2, -1)
        return (positive - negative) @ self.decoder

    @property
    def d_in(self) -> int:
        return self.encoder.shape[1]

    @property
    def n_latents(self) -> int:
        return 2 * len(self.encoder)


def linear(reads: Any, writes: Any, d_in: int, d_out: int, seed: int = 0) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    draw = (torch.randn(6, d, generator=generator) / 4 for d in (d_in, d_out))
    return Linear(reads, writes, *draw)


class CrossLayer:
    """Encoder i reads layer i; its decoders write every layer from i on."""

    def __init__(self, n_layers: int = 3, seed: int = 0) -> None:
        self.layers = [
            linear(
                f"{i}.inputs",
                tuple(f"{j}.outputs" for j in range(i, n_layers)),
                WIDTH,
                (n_layers - i) * WIDTH,
                seed + i,
            )
            for i in range(n_layers)
        ]
        self.reads = tuple(f"{i}.inputs" for i in range(n_layers))
        self.writes = tuple(f"{i}.outputs" for i in range(n_layers))

    def encode(self, x: Tensor) -> Tensor:
        parts = x.split(WIDTH, -1)
        return torch.cat([layer.encode(part) for layer, part in zip(self.layers, parts, strict=True)], -1)

    def decode(self, latents: Tensor) -> Tensor:
        parts = latents.split([layer.n_latents for layer in self.layers], -1)
        total = torch.zeros(*latents.shape[:-1], len(self.layers) * WIDTH)
        for i, (layer, part) in enumerate(zip(self.layers, parts, strict=True)):
            total = total + nn.functional.pad(layer.decode(part), (i * WIDTH, 0))
        return total


class Separable(CrossLayer):
    def split_sources(self) -> Sequence[Any]:
        return self.layers


def by_hand(
    model: Layers, ids: Tensor, new: Callable[[int, list[Tensor], Tensor], Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Runs the model with ``new(layer, inputs so far, original output)`` in place of each MLP's output."""
    x, inputs = model.embedding(ids), []
    for layer, (mlp, mix) in enumerate(zip(model.mlps, model.mix, strict=True)):
        inputs.append(x)
        x = x + mix(new(layer, inputs, mlp(x)))
    return model.head(x), inputs


def written(x: Linear, inputs: Tensor, point: str) -> Tensor:
    names = (x.writes,) if isinstance(x.writes, str) else x.writes
    width = x.decoder.shape[1] // len(names)
    return x.decode(x.encode(inputs)).split(width, -1)[names.index(point)]


@pytest.fixture
def model() -> Layers:
    return Layers()


@pytest.fixture
def ids() -> Tensor:
    return _models.tokens()


def test_own_neurons_at_every_site_change_nothing(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model)
    n_before = n_hooks(model)
    with torch.no_grad():
        expected = model(ids)
        with sites.replaced({name: site.neurons for name, site in sites.items()}):
            torch.testing.assert_close(model(ids), expected)
        with sites.ablated():
            assert not torch.allclose(model(ids), expected)
        torch.testing.assert_close(model(ids), expected)
    assert n_hooks(model) == n_before


def test_a_mapping_equals_nested_contexts(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model, exclude_first=1)
    x = {name: linear("inputs", "outputs", WIDTH, WIDTH, seed) for seed, name in enumerate("02")}
    halve = {"2": lambda latents: latents / 2}
    with torch.no_grad():
        with sites.replaced(x, intervention=halve):
            found = model(ids)
        with sites["0"].replaced(x["0"]), sites["2"].replaced(x["2"], intervention=halve["2"]):
            torch.testing.assert_close(model(ids), found)


@pytest.mark.parametrize("form", ["list", "tuple", "mapping of points", "lists by site"])
def test_contributions_to_a_point_add_up(model: Layers, ids: Tensor, form: str) -> None:
    sites = make_sites(model)
    first, second = (linear("1.inputs", "1.outputs", WIDTH, WIDTH, seed) for seed in (0, 1))
    forms: dict[str, Any] = {
        "list": [first, second],
        "tuple": (first, second),
        "mapping of points": {"first": first, "second": second},
        "lists by site": {"1": [linear("inputs", "outputs", WIDTH, WIDTH, 0), second]},
    }
    with torch.no_grad():
        expected, _ = by_hand(
            model,
            ids,
            lambda i, x, y: sum(d.decode(d.encode(x[1])) for d in (first, second)) if i == 1 else y,  # pyright: ignore
        )
        with sites.replaced(forms[form]):
            torch.testing.assert_close(model(ids), expected)


def test_one_dictionary_writes_several_layers(ids: Tensor) -> None:
    """Its output is split by the widths of the points, in the order of ``writes``."""
    model = Layers(widths=(WIDTH, 5, 7))
    sites = make_sites(model)
    x = linear("0.inputs", ("2.outputs", "0.outputs"), WIDTH, 7 + WIDTH)

    def split(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        return x.decode(x.encode(inputs[0])).split((7, WIDTH), -1)

    with torch.no_grad():
        expected, _ = by_hand(
            model,
            ids,
            lambda i, inputs, y: {
                2: x.decode(x.encode(inputs[0]))[..., :7],
                0: x.decode(x.encode(inputs[0]))[..., 7:],
            }.get(i, y),
        )
        with sites.replaced(x):
            torch.testing.assert_close(model(ids), expected)
        only, _ = by_hand(model, ids, lambda i, inputs, y: split(inputs)[0] if i == 2 else y)
        with sites.replaced(x, only=["2"]):
            only, _ = by_hand(model, ids, lambda i, inputs, y: x.decode(x.encode(inputs[0]))[..., :7] if i == 2 else y)
            torch.testing.assert_close(model(ids), only)


def test_a_dictionary_of_several_points_that_are_all_read_first(ids: Tensor) -> None:
    model = Layers()
    sites = make_sites(model)
    x = linear(("0.inputs", "1.inputs"), ("1.outputs", "2.outputs"), 2 * WIDTH, 2 * WIDTH)

    def new(layer: int, inputs: list[Tensor], original: Tensor) -> Tensor:
        if layer == 0:
            return original
        out = x.decode(x.encode(torch.cat(inputs[:2], -1)))
        return out[..., (layer - 1) * WIDTH : layer * WIDTH]

    with torch.no_grad():
        expected, _ = by_hand(model, ids, new)
        with sites.replaced(x):
            torch.testing.assert_close(model(ids), expected)


@pytest.mark.parametrize("form", ["whole", "list"])
def test_cross_layer_dictionary_runs_layer_by_layer(model: Layers, ids: Tensor, form: str) -> None:
    """Later encoders see inputs that earlier decoders have changed."""
    sites, x = make_sites(model, exclude_first=1), Separable()

    def new(layer: int, inputs: list[Tensor], original: Tensor) -> Tensor:
        total = torch.stack([written(x.layers[i], inputs[i], f"{layer}.outputs") for i in range(layer + 1)]).sum(0)
        return torch.cat([original[:, :1], total[:, 1:]], 1)

    with torch.no_grad():
        expected, _ = by_hand(model, ids, new)
        with sites.replaced(x if form == "whole" else x.layers):
            torch.testing.assert_close(model(ids), expected)


def test_reading_after_the_first_write_is_an_error_with_a_remedy(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model)
    message = r"reads at `mlps.1:in`.*before `mlps.0:out`.*`split_sources`"
    with pytest.raises(RuntimeError, match=message), sites.replaced(CrossLayer()):
        model(ids)
    assert n_hooks(model) == n_hooks(Layers())


def test_error_terms_make_replacement_exact(model: Layers, ids: Tensor) -> None:
    sites, x = make_sites(model), Separable()
    with torch.no_grad():
        expected = model(ids)
        with sites.replaced(x, error_term=True):
            assert torch.equal(model(ids), expected)
        with sites.replaced(x, error_term=True, intervention=lambda latents: latents.clone()):
            torch.testing.assert_close(model(ids), expected)

        def new(layer: int, inputs: list[Tensor], original: Tensor) -> Tensor:
            if layer in (0, 2):
                return original
            return sum(written(x.layers[i], inputs[i], f"{layer}.outputs") for i in range(layer + 1))  # pyright: ignore

        expected, _ = by_hand(model, ids, new)
        with sites.replaced(x, error_term=["0", "2"]):
            torch.testing.assert_close(model(ids), expected)


def test_an_error_term_is_per_point(model: Layers, ids: Tensor) -> None:
    """An intervention changes the original by its effect alone."""
    sites = make_sites(model)
    x = linear("0.inputs", ("0.outputs", "1.outputs"), WIDTH, 2 * WIDTH)

    def new(layer: int, inputs: list[Tensor], original: Tensor) -> Tensor:
        if layer == 2:
            return original
        latents = x.encode(inputs[0])
        change = (x.decode(latents * 3) - x.decode(latents)).split(WIDTH, -1)[layer]
        return original + change

    with torch.no_grad():
        expected, _ = by_hand(model, ids, new)
        with sites.replaced(x, error_term=True, intervention=lambda latents: 3 * latents):
            torch.testing.assert_close(model(ids), expected)


def test_an_intervention_counts_latents_over_all_sources(model: Layers, ids: Tensor) -> None:
    sites, x = make_sites(model), Separable()
    n = [layer.n_latents for layer in x.layers]
    cut = sd.Ablation(torch.arange(sum(n)) % 3 == 0, torch.arange(sum(n)).float() / 10)
    by_layer = [sd.Ablation(m, v) for m, v in zip(cut.latents.split(n), cut.means.split(n), strict=True)]  # pyright: ignore
    with torch.no_grad():
        with sites.replaced(x, intervention=cut):
            found = model(ids)
        with sites.replaced(x.layers, intervention=by_layer):
            torch.testing.assert_close(model(ids), found)
        with sites.replaced(x):
            assert not torch.allclose(model(ids), found)


def test_excluded_positions_pass_through_at_each_site(model: Layers, ids: Tensor) -> None:
    sites = Sites({"0": Site(model, "mlps.0", exclude_first=2), "1": Site(model, "mlps.1", exclude_first=4)})
    zero = {name: Constant(torch.zeros(WIDTH)) for name in sites}

    def new(layer: int, _: list[Tensor], original: Tensor) -> Tensor:
        n = (2, 4, 99)[layer]
        return torch.cat([original[:, :n], torch.zeros_like(original[:, n:])], 1)

    with torch.no_grad():
        expected, _ = by_hand(model, ids, new)
        with sites.replaced(zero):
            torch.testing.assert_close(model(ids), expected)
        with sites.ablated():
            torch.testing.assert_close(model(ids), expected)


def test_gradients_flow_across_layers(model: Layers, ids: Tensor) -> None:
    x = Separable()
    for layer in x.layers:
        layer.encoder.requires_grad_()
        layer.decoder.requires_grad_()
    sites = make_sites(model)

    def gradients(logits: Tensor) -> list[Tensor]:
        parameters = [tensor for layer in x.layers for tensor in (layer.encoder, layer.decoder)]
        return list(torch.autograd.grad(logits.square().sum(), [*parameters, model.embedding.weight]))

    def new(layer: int, inputs: list[Tensor], _: Tensor) -> Tensor:
        return torch.stack([written(x.layers[i], inputs[i], f"{layer}.outputs") for i in range(layer + 1)]).sum(0)

    expected = gradients(by_hand(model, ids, new)[0])
    with sites.replaced(x):
        found = gradients(model(ids))
    for own, other in zip(found, expected, strict=True):
        assert own.abs().sum() > 0
        torch.testing.assert_close(own, other)


def test_dictionaries_of_the_library(model: Layers, ids: Tensor) -> None:
    """Sparse latents, a skip and other precision serve; a `ModuleDict` is a mapping."""
    sites = make_sites(model)
    x = nn.ModuleDict(
        {
            name: sd.SparseDistiller(
                WIDTH, WIDTH, 32, activation=sd.TopK(4), decoder_norm=sd.Free(), skip=True
            ).double()
            for name in sites
        }
    ).double()

    def new(layer: int, inputs: list[Tensor], _: Tensor) -> Tensor:
        return x[str(layer)](inputs[layer].double()).reconstruction.float()  # pyright: ignore[reportCallIssue]

    with torch.no_grad():
        expected, _ = by_hand(model, ids, new)
        with sites.replaced(x):
            torch.testing.assert_close(model(ids), expected)


def test_a_key_of_several_sites_joins_them(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model)
    plain = linear("inputs", "outputs", 2 * WIDTH, 2 * WIDTH)
    named = Linear(("1.inputs", "2.inputs"), ("1.outputs", "2.outputs"), plain.encoder, plain.decoder)
    for x in ({("1", "2"): plain}, named):
        with pytest.raises(RuntimeError, match=r"reads at `mlps.2:in`"), sites.replaced(x):
            model(ids)


def test_foreign_objects_are_named_by_arguments_or_adapters(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model)

    class Foreign:
        def encode(self, x: Tensor) -> Tensor:
            return torch.cat([x, -x], -1).relu()

        def decode(self, latents: Tensor) -> Tensor:
            return latents[..., :WIDTH] - latents[..., WIDTH:]

    with torch.no_grad():
        with sites.replaced({"0": Foreign(), "1": Foreign()}, reads="inputs"):
            found = model(ids)
        with sites.replaced([sd.Adapter(Foreign(), f"{name}.inputs") for name in "01"]):
            assert torch.equal(model(ids), found)
    message = "`reads` must name the point that a Foreign reads"
    with pytest.raises(ValueError, match=message), sites.replaced({"0": Foreign()}):
        pass


def test_two_models_are_replaced_in_one_context(ids: Tensor) -> None:
    first, second = Layers(), Layers()
    sites = Sites({"a": Site(first, "mlps.0"), "b": Site(second, "mlps.1")})
    x = {name: linear("inputs", "outputs", WIDTH, WIDTH, seed) for seed, name in enumerate("ab")}
    with torch.no_grad():
        with sites.replaced(x):
            found = first(ids), second(ids)
        with sites["a"].replaced(x["a"]), sites["b"].replaced(x["b"]):
            assert torch.equal(first(ids), found[0])
            assert torch.equal(second(ids), found[1])
    crosscoder = linear(("a.inputs", "b.inputs"), ("a.outputs", "b.outputs"), 2 * WIDTH, 2 * WIDTH)
    message = r"must read and write points of one model.*2 models: 'a.inputs'"
    with pytest.raises(ValueError, match=message), sites.replaced(crosscoder):
        pass


def test_a_pass_that_ends_early_leaves_nothing_behind(model: Layers, ids: Tensor) -> None:
    """Contributions that were held for a later layer don't reach the next forward pass."""
    sites, x = make_sites(model), linear("0.inputs", ("0.outputs", "2.outputs"), WIDTH, 2 * WIDTH)
    other = _models.tokens(3, 5)
    sites["1"].capture(ids)  # The first capture runs the model to its end.
    with torch.no_grad():
        with sites.replaced(x):
            expected = model(other)
        with sites.replaced(x):
            sites["1"].capture(ids)  # stops after the second layer
            torch.testing.assert_close(model(other), expected)


def test_points_that_are_not_reached_are_named(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model)
    sites["1"].capture(ids)  # The first capture runs the model to its end.
    message = "Nothing was replaced at `mlps.2:out`"
    with pytest.warns(RuntimeWarning, match=message) as caught, torch.no_grad(), sites.replaced(Separable()):
        sites["1"].capture(ids)
    assert len(caught) == 1
    assert caught[0].filename == __file__


class Checkpointed(Layers):
    """Recomputes chosen layers, or all, in the backward pass."""

    def __init__(self, groups: Sequence[Sequence[int]], reentrant: bool) -> None:
        super().__init__()
        self.groups, self.reentrant = groups, reentrant

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for group in self.groups:

            def run(x: Tensor, group: Sequence[int] = group) -> Tensor:
                for layer in group:
                    x = x + self.mix[layer](self.mlps[layer](x))
                return x

            x = checkpoint(run, x, use_reentrant=self.reentrant)
        return self.head(x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("leave_first", [False, True])
def test_layers_that_are_recomputed_together(reentrant: bool, leave_first: bool, ids: Tensor) -> None:
    found = []
    for model in (Layers(), Checkpointed([[0, 1], [2]], reentrant)):
        x = linear("0.inputs", ("0.outputs", "1.outputs"), WIDTH, 2 * WIDTH)
        last = linear("2.inputs", "2.outputs", WIDTH, WIDTH, 1)
        parameters = [t.requires_grad_() for t in (x.encoder, x.decoder, last.encoder, last.decoder)]
        n_before = n_hooks(model)
        with make_sites(model, exclude_first=1).replaced([x, last]):
            value = model(ids).square().sum()
            if not leave_first:
                value.backward()
        if leave_first:
            value.backward()
        found.append([p.grad for p in (*parameters, *model.parameters())])
        del value
        gc.collect()
        assert n_hooks(model) == n_before
    for own, other in zip(found[1], found[0], strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_recomputed_apart_raise(reentrant: bool, ids: Tensor) -> None:
    model = Checkpointed([[0], [1], [2]], reentrant)
    x = linear("0.inputs", ("0.outputs", "1.outputs"), WIDTH, 2 * WIDTH)
    x.encoder.requires_grad_()
    message = "Disable checkpointing while the site is replaced"
    with pytest.raises(RuntimeError, match=message), make_sites(model).replaced(x):
        model(ids).square().sum().backward()


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (
            [linear("inputs", "outputs", 16, 16)],
            {},
            ValueError,
            r"`x\[0\]` names the point 'inputs' without a site.*'0', '1', '2'",
        ),
        (
            {"3": linear("inputs", "outputs", 16, 16)},
            {},
            ValueError,
            r"`x\['3'\]` names the point 'inputs' without a site",
        ),
        (
            linear("3.inputs", "0.outputs", 16, 16),
            {},
            ValueError,
            "the point '3.inputs', but the available points are",
        ),
        (linear("0.inputs", ("0.outputs", "0.outputs"), 16, 32), {}, ValueError, "must name each point once"),
        (linear("0.inputs", ("0.outputs", "1.outputs"), 16, 31), {}, ValueError, "of width 32, the sum of"),
        ({}, {}, ValueError, "`x` must contain at least one dictionary"),
        (linear("0.inputs", "0.outputs", 16, 16), {"only": ["1"]}, ValueError, "must contain at least one dictionary"),
        (linear("0.inputs", "0.outputs", 16, 16), {"only": ["4"]}, ValueError, "`only` must name sites"),
        (linear("0.inputs", "0.outputs", 16, 16), {"error_term": "4"}, ValueError, "`error_term` must name sites"),
        ({"0": nn.Linear(2, 2)}, {}, TypeError, r"`x\['0'\]` must be a dictionary.*has no `encode`"),
        (
            {"0": linear("inputs", "outputs", 16, 16)},
            {"intervention": {"1": torch.relu}},
            ValueError,
            "must be keys of `x`",
        ),
        (
            {name: linear("inputs", "outputs", 16, 16) for name in "01"},
            {"intervention": torch.relu},
            TypeError,
            "`intervention` must be a mapping with the keys of `x`",
        ),
        ([linear("0.inputs", "0.outputs", 16, 16)] * 2, {"intervention": [None]}, TypeError, "a list of 2"),
        (
            {"0": linear("inputs", "outputs", 16, 16)},
            {"intervention": {"0": 3}},
            TypeError,
            r"`intervention\['0'\]` must",
        ),
        (linear("0.inputs", "0.outputs", 15, 16), {}, ValueError, "reads activations of width 15"),
        (
            sd.SparseDistiller(16, 30, 8, activation=sd.ReLU(), decoder_norm=sd.Free()),
            {"reads": "0.inputs"},
            ValueError,
            "`reads` must be 'inputs' for this SparseDistiller",
        ),
    ],
)
def test_bad_arguments_raise(x: Any, options: Any, error: type[Exception], message: str, model: Layers) -> None:
    with pytest.raises(error, match=message), make_sites(model).replaced(x, **options):
        model(_models.tokens())


def test_sites_of_one_point_must_leave_out_the_same_positions(model: Layers) -> None:
    sites = Sites({"a": Site(model, "mlps.0"), "b": Site(model, "mlps.0", exclude_first=1)})
    x = {name: linear("inputs", "outputs", WIDTH, WIDTH) for name in sites}
    with pytest.raises(ValueError, match="must exclude the same positions"), sites.replaced(x):
        pass


def test_means_of_an_ablation(model: Layers, ids: Tensor) -> None:
    sites = make_sites(model)
    means = {name: torch.full((WIDTH,), float(index)) for index, name in enumerate(sites)}
    with torch.no_grad():
        expected, _ = by_hand(model, ids, lambda i, _, y: torch.full_like(y, float(i)))
        with sites.ablated(means):
            torch.testing.assert_close(model(ids), expected)
    with pytest.raises(ValueError, match="`means` must have a mean for each of the sites"):
        sites.ablated({"0": torch.zeros(WIDTH)})
