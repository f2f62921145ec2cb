"""Cross-layer distillers: which layers latents read and write, and how they are trained and run in a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.residual import sites_of_residual_mlps
from torch import Tensor

import sparsedict as sd
from sparsedict.kernels import Workspace

D, CONTEXT, N_TOKENS = 6, 8, 3_000
LAYERS = {"0": (6, 5), "1": (4, 5), "2": (6, 5)}
PARTS: dict[str, Any] = {"decoder_norm": sd.UnitNorm(), "dtype": torch.float64}


@pytest.fixture(scope="module")
def sites() -> sd.Sites:
    return sites_of_residual_mlps(3, d=D)


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(20, (64, CONTEXT), generator=torch.Generator().manual_seed(1))


def made(layers: Any = LAYERS, n_latents: Any = (8, 12, 10), **options: Any) -> sd.CrossLayerDistiller:
    torch.manual_seed(2)
    options = {"activation": sd.PerLayer(sd.TopK(3)), **PARTS, **options}
    return sd.CrossLayerDistiller(layers, n_latents, **options)


LAYOUTS: dict[str, tuple[sd.DecoderLayout, list[list[int]]]] = {
    "later": (sd.LaterLayers(), [[0, 1, 2], [1, 2], [2]]),
    "next": (sd.NextLayers(1), [[0, 1], [1, 2], [2]]),
    "own": (sd.NextLayers(0), [[0], [1], [2]]),
    "tied": (sd.TiedDecoders(), [[0, 1, 2], [1, 2], [2]]),
    "tied next": (sd.TiedDecoders(sd.NextLayers(1)), [[0, 1], [1, 2], [2]]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_latents_read_one_layer_and_write_those_of_the_layout(name: str) -> None:
    layout, targets = LAYOUTS[name]
    dictionary = made(layout=layout)
    x = torch.randn(7, dictionary.d_in, dtype=torch.float64)
    inputs, outputs = torch.tensor([6, 4, 6]).cumsum(0).tolist(), 5
    nothing = dictionary.decode(torch.zeros(7, 30, dtype=torch.float64))
    for layer, own in enumerate(targets):
        latents = dictionary.latents_of(str(layer))
        changed = x.clone()
        changed[:, inputs[layer] - LAYERS[str(layer)][0] : inputs[layer]] += 1
        moved = (dictionary.pre_activations(changed) != dictionary.pre_activations(x)).any(0).nonzero().flatten()
        assert moved.tolist() == list(range(30))[latents]
        some = torch.zeros(7, 30, dtype=torch.float64)
        some[:, latents] = torch.rand(7, latents.stop - latents.start, dtype=torch.float64)
        added = (dictionary.decode(some) - nothing).view(7, 3, outputs)
        assert added.any(-1).any(0).nonzero().flatten().tolist() == own
        if layout.is_tied:
            torch.testing.assert_close(added[:, own], added[:, own[:1]].expand(-1, len(own), -1))


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_weight_is_held_that_is_always_zero(name: str) -> None:
    layout, targets = LAYOUTS[name]
    dictionary = made(layout=layout)
    n_rows = [1 if layout.is_tied else len(own) for own in targets]
    n_decoder = sum(n * rows * 5 for n, rows in zip((8, 12, 10), n_rows, strict=True))
    n_encoder = 8 * 6 + 12 * 4 + 10 * 6
    assert sum(weight.numel() for weight in dictionary.parameters()) == n_decoder + n_encoder + 30 + 15
    assert dictionary.decoder.shape == (30, 15)
    torch.testing.assert_close(dictionary.decoder_norms(), torch.linalg.vector_norm(dictionary.decoder, dim=-1))


@pytest.mark.parametrize("norm", [sd.UnitNorm(), sd.MaxNorm(0.5), sd.PerPoint(sd.UnitNorm())], ids=repr)
@pytest.mark.parametrize("name", ["later", "tied"])
def test_norms_hold_for_whole_rows_or_for_each_point_after_training(name: str, norm: sd.DecoderNorm) -> None:
    dictionary = made(layout=LAYOUTS[name][0], decoder_norm=norm)
    x = torch.randn(256, 16, dtype=torch.float64)
    data = (x, torch.randn(256, 15, dtype=torch.float64))
    sd.fit(dictionary, named(*data), n_tokens=1024, batch_size=64, progress=False)
    for layer, block in enumerate(dictionary.blocks()):
        rows = dictionary.decoder[block.latents].view(-1, 3, 5)
        norms = torch.linalg.vector_norm(rows, dim=-1)
        if isinstance(norm, sd.PerPoint):
            torch.testing.assert_close(norms[:, layer:], torch.ones_like(norms[:, layer:]))
        elif isinstance(norm, sd.UnitNorm):
            torch.testing.assert_close(norms.norm(dim=-1), torch.ones(len(norms), dtype=torch.float64))
        else:
            assert (norms.norm(dim=-1) <= 0.5 + 1e-12).all()
        assert not norms[:, :layer].any()


def named(inputs: Tensor, targets: Tensor) -> sd.Activations:
    """Returns activations of the three layers as a batch."""
    points = dict(zip([f"{i}.inputs" for i in range(3)], inputs.split((6, 4, 6), -1), strict=True))
    return sd.Activations(points | dict(zip([f"{i}.outputs" for i in range(3)], targets.split(5, -1), strict=True)))


@pytest.mark.parametrize("activation", [sd.TopK(3), sd.BatchTopK(3), sd.ReLU(), sd.JumpReLU(0.4, 0.5)], ids=repr)
def test_a_reach_of_zero_equals_a_distiller_for_each_layer(activation: sd.Activation) -> None:
    chooses = not activation.elementwise
    whole = made(activation=sd.PerLayer(activation) if chooses else activation, layout=sd.NextLayers(0), skip=True)
    singles = [
        sd.SparseDistiller(d_in, d_out, n, activation=activation, skip=True, **PARTS)
        for (d_in, d_out), n in zip(LAYERS.values(), (8, 12, 10), strict=True)
    ]
    with torch.no_grad():
        for index, (single, block) in enumerate(zip(singles, whole.blocks(), strict=True)):
            single.encoder.copy_(block.encoder)
            single.decoder.copy_(block.decoder)
            whole.skips[index].normal_()
            single.skip.copy_(whole.skips[index])  # type: ignore[union-attr]
            single.encoder_bias.normal_()
            whole.encoder_bias[block.latents] = single.encoder_bias
    x, y = torch.randn(20, 16, dtype=torch.float64), torch.randn(20, 15, dtype=torch.float64)
    whole.train()
    out = whole.forward_pass(x, y)
    loss = (sd.SquaredError()(out) + sd.NormWeighted(sd.L1(0.3))(out)).backward()
    assert loss is None
    for index, (single, block) in enumerate(zip(singles, whole.blocks(), strict=True)):
        own = single.train().forward_pass(x[:, block.reads], y[:, block.writes])
        (sd.SquaredError()(own) + sd.NormWeighted(sd.L1(0.3))(own)).backward()
        assert torch.equal(out.reconstruction[:, block.writes], own.reconstruction)
        torch.testing.assert_close(block.encoder.grad, single.encoder.grad)
        torch.testing.assert_close(block.decoder.grad, single.decoder.grad)
        torch.testing.assert_close(whole.encoder_bias.grad[block.latents], single.encoder_bias.grad)  # type: ignore[index]
        torch.testing.assert_close(whole.skips[index].grad, single.skip.grad)  # type: ignore[union-attr]


ACTIVATIONS = [
    sd.PerLayer(sd.TopK(3)),
    sd.PerLayer((sd.BatchTopK(2), sd.BatchTopK(3), sd.BatchTopK(4))),
    sd.BatchTopK(9),
]


@pytest.mark.parametrize(
    ("activation", "layout"),
    [*zip(ACTIVATIONS, ["later", "tied next", "later"], strict=True), (sd.BatchTopK(9), "tied next")],
    ids=repr,
)
def test_it_is_trained_evaluated_and_put_into_a_model(
    activation: sd.Activation, layout: str, sites: sd.Sites, tokens: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    dictionary = sd.CrossLayerDistiller(
        sites, 32, activation=activation, decoder_norm=sd.UnitNorm(), layout=LAYOUTS[layout][0], skip=True
    )
    stream = sd.ActivationStream(sites, tokens, batch_size=64)
    sd.fit(dictionary, stream, n_tokens=N_TOKENS, progress=False, penalties=[sd.AuxK(dead_after=500)])
    assert dictionary.trained_on["site"] == ["1.mlp", "2.mlp", "3.mlp"]
    dictionary.save(tmp_path)
    loaded = sd.load(tmp_path)
    inputs, targets = dictionary.select(sites.capture(tokens).batch())
    assert torch.equal(loaded(inputs).reconstruction, dictionary(inputs).reconstruction)
    found = sd.evaluate(sites, dictionary, tokens)
    latents, reconstruction = dictionary(inputs)
    for index, name in enumerate(sites):
        columns = slice(index * D, (index + 1) * D)
        assert found.sites[name].fvu == pytest.approx(sd.metrics.fvu(reconstruction[:, columns], targets[:, columns]))
        fired = sd.metrics.l0(latents[:, dictionary.latents_of(name)])
        assert found.sites[name].l0 == pytest.approx(float(fired))
    assert found.losses is not None
    assert found.losses.kl is not None
    assert found.losses.kl < 0.05
    model = sites["0"].model
    with torch.no_grad():
        original = model(tokens)[:, :-1].argmax(-1)
        with sites.replaced(dictionary):
            agree = (model(tokens)[:, :-1].argmax(-1) == original).float().mean()
    assert found.losses.agreement == pytest.approx(float(agree))
    assert found.to_dict()["agreement"] == found.losses.agreement > 0.5
    assert_runs_layer_by_layer(dictionary, sites, tokens)


def assert_runs_layer_by_layer(dictionary: sd.CrossLayerDistiller, sites: sd.Sites, tokens: Tensor) -> None:
    model = sites["0"].model
    embedding, head = model[0], model[4]  # type: ignore[index]
    with torch.no_grad():
        x = embedding(tokens)
        read: list[Tensor] = []
        for layer in range(3):
            read.append(x)
            # Later layers don't matter yet.
            inputs = torch.cat([*read, *[torch.zeros_like(x)] * (2 - layer)], -1)
            x = x + dictionary(inputs).reconstruction[..., layer * D : (layer + 1) * D]
        with sites.replaced(dictionary):
            torch.testing.assert_close(model(tokens), head(x))


def test_latents_of_all_layers_compete_only_on_request(sites: sd.Sites, tokens: Tensor) -> None:
    inputs = torch.randn(50, 18)
    apart, together = (
        sd.CrossLayerDistiller(sites, 32, activation=activation, decoder_norm=sd.UnitNorm())
        for activation in (sd.PerLayer(sd.TopK(4)), sd.TopK(12))
    )
    counts = [(own.encode(inputs) > 0).view(50, 3, 32).sum(-1) for own in (apart, together)]
    assert (counts[0] == 4).all()
    assert (counts[1].sum(-1) == 12).all()
    assert (counts[1] != 4).any()
    message = r"selects among the latents of all layers.*PerLayer\(TopK\(k=12\)\)"
    with pytest.raises(RuntimeError, match=message), sites.replaced(together):
        sites["0"].model(tokens)
    found = sd.evaluate(sites, together, tokens)
    assert found.l0 == 12
    assert found.losses is None
    assert "PerLayer(TopK(k=12))" in str(found.note)


def test_a_threshold_of_all_layers_waits_for_evaluation_mode(sites: sd.Sites, tokens: Tensor) -> None:
    dictionary = sd.CrossLayerDistiller(sites, 32, activation=sd.BatchTopK(12), decoder_norm=sd.UnitNorm())
    with pytest.raises(RuntimeError, match="BatchTopK"):
        sites.replaced(dictionary).__enter__()
    sd.fit(dictionary, sd.ActivationStream(sites, tokens, batch_size=64), n_tokens=640, progress=False)
    dictionary.train()
    with pytest.raises(RuntimeError, match=r"Call `dictionary.eval\(\)` first"), sites.replaced(dictionary):
        sites["0"].model(tokens)
    assert sd.evaluate(sites, dictionary, tokens).losses is not None
    assert dictionary.training


def test_layers_of_any_scale_are_learned_alike() -> None:
    x, mix = torch.randn(512, 16, dtype=torch.float64), torch.randn(16, 15, dtype=torch.float64)
    y = x @ mix
    scales = torch.tensor([1e3, 1.0, 1e-3], dtype=torch.float64)
    by_input = scales.repeat_interleave(torch.tensor([6, 4, 6]))
    by_output = scales.flip(0).repeat_interleave(5)
    first, scaled = made(activation=sd.TopK(6)), made(activation=sd.TopK(6))
    for dictionary, data in ((first, (x, y)), (scaled, (x * by_input, y * by_output))):
        dictionary.initialise_(*data)
        assert torch.equal(dictionary.encode(data[0]) != 0, first.encode(x) != 0)
    torch.testing.assert_close(scaled(x * by_input).reconstruction, first(x).reconstruction * by_output)


def test_few_latents_die() -> None:
    sites = sd.Sites(sd.zoo.load_model(), {str(i): f"transformer.h.{i}.mlp" for i in (1, 2)}, exclude_tokens=[0])
    batch = next(iter(sd.ActivationStream(sites, sd.zoo.tokens("train", n_tokens=17_000), batch_size=16_000)))
    generator = torch.Generator().manual_seed(0)
    parts = {"activation": sd.PerLayer(sd.BatchTopK(16)), "decoder_norm": sd.UnitNorm(), "generator": generator}
    dictionary = sd.CrossLayerDistiller(sites, 192, **parts)
    sd.fit(dictionary, batch, n_tokens=32_000, batch_size=512, progress=False)
    never = (dictionary.encode(batch.at(dictionary.reads)) == 0).all(0)
    # Without the scale that fits the data, 17 % to 22 % of the latents never fire.
    assert never.double().mean() < 0.12


def test_the_folded_dictionary_reads_activations_as_they_are() -> None:
    dictionary = made(skip=True)
    dictionary.initialise_(torch.randn(64, 16).double() * 5, torch.randn(64, 15).double() / 3)
    folded = dictionary.folded()
    assert (folded.output_scale == 1).all()
    assert (dictionary.output_scale != 1).all()
    x = torch.randn(9, 16, dtype=torch.float64)
    torch.testing.assert_close(folded(x), dictionary(x))


def test_dead_latents_of_every_layer_are_resampled() -> None:
    dictionary = made(n_latents=16)
    x, y = torch.randn(512, 16, dtype=torch.float64), torch.randn(512, 15, dtype=torch.float64)
    dead = torch.tensor([1, 20, 40])
    with torch.no_grad():
        dictionary.encoder_bias[dead] = -100.0
    before = {name: weight.clone() for name, weight in dictionary.state_dict().items()}
    hook = sd.Resample(every=2, dead_after=100)
    sd.fit(dictionary, named(x, y), n_tokens=192, batch_size=64, lr=1e-9, step_hooks=[hook], progress=False)
    for name, index in (("encoder", 1), ("decoder", 2)):
        for layer, row in ((0, 1), (1, 4), (2, 8)):
            weight, old = dictionary.state_dict()[f"{name}_{layer}"], before[f"{name}_{layer}"]
            assert not torch.allclose(weight[row], old[row], atol=1e-3), (name, layer, index)
            torch.testing.assert_close(weight[row - 1], old[row - 1], atol=1e-6, rtol=0)
    assert (dictionary.encoder_bias[dead] > -50).all()
    torch.testing.assert_close(dictionary.decoder_norms(), torch.ones(48, dtype=torch.float64))


def test_it_is_trained_from_a_store_like_from_a_stream(sites: sd.Sites, tokens: Tensor, tmp_path: Path) -> None:
    sd.ActivationStream(sites, tokens, batch_size=64).save_to(tmp_path)
    options: dict[str, Any] = {"activation": sd.PerLayer(sd.TopK(4)), "decoder_norm": sd.UnitNorm()}
    dictionary = sd.CrossLayerDistiller(sites, 32, **options)
    history = sd.fit(dictionary, sd.ActivationStore(tmp_path, batch_size=64), n_tokens=N_TOKENS, progress=False)
    assert history.last.fvu < 0.4


@pytest.mark.as_installed
def test_bad_layers_and_numbers_of_latents_are_named(sites: sd.Sites) -> None:
    with pytest.raises(ValueError, match="`layers` must name each layer once, got 'a' twice"):
        made([("a", 4, 4), ("a", 4, 4)], 8)
    with pytest.raises(ValueError, match=r"in the order of the model.*'0' comes before '1'"):
        made(sd.Sites({name: sites[name] for name in ("1", "0")}), 8)
    with pytest.raises(ValueError, match=r"each MLP once, but 'a' and 'b' are the same module"):
        made(sd.Sites({"a": sites["0"], "b": sites["0"]}), 8)
    other = copy.deepcopy(sites["1"].model)
    with pytest.raises(ValueError, match=r"sites of one model.*'b' is a site of another model. Use `sd.Crosscoder`"):
        made(sd.Sites({"a": sites["0"], "b": sd.Site(other, "2.mlp")}), 8)
    with pytest.raises(TypeError, match="`layers` must be `Sites`, a mapping of names to widths"):
        made(4, 8)
    with pytest.raises(ValueError, match="`layers` must name at least one layer"):
        made({}, 8)
    with pytest.raises(ValueError, match=r"`layers\['a'\]` must be at least 1, got 0"):
        made({"a": 0}, 8)
    with pytest.raises(ValueError, match=r"an entry for each layer \['0', '1', '2'\], got \['0', '1'\]"):
        made(n_latents={"0": 8, "1": 8})
    with pytest.raises(ValueError, match="an entry for each of 3 layers, got 2"):
        made(n_latents=(8, 8))
    with pytest.raises(ValueError, match="at least 1 in one of the layers"):
        made(n_latents=(0, 0, 0))
    with pytest.raises(ValueError, match="`k` must be at most `n_latents`, got k=9 for 8"):
        made(activation=sd.PerLayer(sd.TopK(9)))
    with pytest.raises(ValueError, match="must have one entry for each of 3 layers, got 2"):
        made(activation=sd.PerLayer((sd.TopK(2), sd.TopK(2))))
    with pytest.raises(ValueError, match="outputs of equal width for tied decoders, got \\[4, 5\\] from '0' on"):
        made({"0": (4, 4), "1": (4, 5)}, 8, layout=sd.TiedDecoders())
    with pytest.raises(TypeError, match="`layout` must be a DecoderLayout such as"):
        made(layout=sd.NextLayers)
    with pytest.raises(ValueError, match="`reach` must be at least 0"):
        sd.NextLayers(-1)


@pytest.mark.as_installed
def test_an_activation_for_layers_needs_layers() -> None:
    with pytest.raises(ValueError, match=r"needs a dictionary over several layers, such as `sd.CrossLayerDistiller`"):
        sd.SparseDistiller(4, 4, 8, activation=sd.PerLayer(sd.TopK(2)), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"must select among latents.*Pass it without PerLayer"):
        sd.PerLayer(sd.ReLU())
    with pytest.raises(ValueError, match="of one class in all layers"):
        sd.PerLayer((sd.TopK(2), sd.BatchTopK(2)))


class Backwards(sd.DecoderLayout):
    def n_targets(self, source: int, n_layers: int) -> int:
        return -1


@pytest.mark.as_installed
def test_targets_before_the_source_are_named() -> None:
    with pytest.raises(ValueError, match=r"`layout.n_targets` must be from 1 to 3 for layer '0'.*got -1"):
        made(layout=Backwards())


@pytest.mark.as_installed
def test_data_that_does_not_fit_is_named(sites: sd.Sites, tokens: Tensor) -> None:
    options: dict[str, Any] = {"activation": sd.PerLayer(sd.TopK(4)), "decoder_norm": sd.UnitNorm()}
    dictionary = sd.CrossLayerDistiller(sites, 32, **options)
    two = sd.Sites({name: sites[name] for name in ("0", "1")})
    with pytest.raises(ValueError, match=r"points of a CrossLayerDistiller, which reads 0.inputs, .*point '2.inputs'"):
        sd.fit(dictionary, sd.ActivationStream(two, tokens), n_tokens=64, progress=False)
    with pytest.raises(ValueError, match=r"`dictionary` needs the point '2.inputs'"):
        sd.evaluate(two, dictionary, tokens)
    with pytest.raises(ValueError, match=r"`1.inputs` must contain as many tokens as `0.inputs`, got 4 and 5"):
        sd.Activations({"0.inputs": torch.zeros(5, D), "1.inputs": torch.zeros(4, D)})
    wrong = sd.CrossLayerDistiller({"0": 6, "1": 4, "2": 6}, 32, **options)
    with pytest.raises(ValueError, match=r"`dictionary.d_in` must equal the width of the data's 0.inputs.*18, got 16"):
        sd.fit(wrong, sd.ActivationStream(sites, tokens), n_tokens=64, progress=False)


@pytest.mark.parametrize("activation", [sd.PerLayer(sd.TopK(3)), sd.PerLayer(sd.BatchTopK(3)), sd.JumpReLU()], ids=repr)
def test_latents_of_a_layer_without_any_left_are_read(activation: sd.Activation, tmp_path: Path) -> None:
    whole = made(skip=True, activation=activation)
    for name, buffer in whole.named_buffers():
        if "threshold" in name:
            buffer.fill_(0.1)
    whole.save(tmp_path)
    some = sd.load(tmp_path, latents=[1, 5, 25])
    x = torch.randn(9, 16, dtype=torch.float64)
    assert isinstance(some, sd.CrossLayerDistiller)
    assert some.layer_sizes == (2, 0, 1)
    assert some(x).reconstruction.shape == (9, 15)
    torch.testing.assert_close(some.pre_activations(x), whole.pre_activations(x)[:, [1, 5, 25]])
    with pytest.raises(ValueError, match="in the order of their layers"):
        sd.load(tmp_path, latents=[25, 1])


def test_generation_with_a_cache_gives_the_same_tokens_as_without() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()
    sites = sd.Sites(model, {str(i): f"transformer.h.{i}.mlp" for i in range(3)}, exclude_first=1)
    tokens = torch.randint(50, (64, 16))
    dictionary = sd.CrossLayerDistiller(sites, 32, activation=sd.PerLayer(sd.BatchTopK(4)), decoder_norm=sd.UnitNorm())
    sd.fit(dictionary, sd.ActivationStream(sites, tokens, batch_size=128), n_tokens=4096, progress=False)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    plain = model.generate(tokens[:3, :5], return_dict_in_generate=True, **options)
    with sites.replaced(dictionary):
        cached, whole = (
            model.generate(tokens[:3, :5], use_cache=use, return_dict_in_generate=True, **options)
            for use in (True, False)
        )
    assert torch.equal(cached.sequences, whole.sequences)
    for ours, theirs in zip(cached.logits, whole.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(cached.logits[0], plain.logits[0], atol=1e-4)


def test_a_balanced_error_weighs_every_layer_alike() -> None:
    dictionary = made().train()
    x, y = torch.randn(50, 16, dtype=torch.float64), torch.randn(50, 15, dtype=torch.float64)
    y = y * torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64).repeat_interleave(5)
    out = dictionary.forward_pass(x, y)
    found = sd.BalancedError()(out)
    errors, targets = (part.view(50, 3, 5) for part in (out.reconstruction - y, y))
    variances = (targets - targets.mean(0)).square().sum((0, 2)) / 50
    fvu = errors.square().sum((0, 2)) / 50 / variances
    torch.testing.assert_close(found, fvu.sum() * variances.mean())
    plain = sd.SparseDistiller(16, 15, 8, activation=sd.ReLU(), **PARTS).train().forward_pass(x, y)
    torch.testing.assert_close(sd.BalancedError()(plain), sd.SquaredError()(plain))


@pytest.mark.parametrize("layout", [sd.LaterLayers(), sd.NextLayers(1), sd.TiedDecoders(sd.LaterLayers())])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("batch_shape", [(12,), (3, 4)])
def test_a_sum_over_blocks_equals_the_dense_products(layout: Any, stored: bool, batch_shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    dictionary = sd.CrossLayerDistiller(
        {"0": 4, "1": 4, "2": 4},
        [5, 6, 7],
        activation=sd.ReLU(),
        decoder_norm=sd.Free(),
        layout=layout,
        skip=True,
        dtype=torch.float64,
        generator=generator,
    )
    for parameter in dictionary.parameters():
        parameter.data.normal_(generator=generator)
    dictionary.output_scale.copy_(torch.tensor([2.0, 3.0, 0.5]))
    x = torch.randn(*batch_shape, 12, generator=generator, dtype=torch.float64)
    latents = torch.randn(*batch_shape, 18, generator=generator, dtype=torch.float64).relu().requires_grad_()
    workspace = Workspace()
    sparse: Any = latents
    if stored:
        sparse = sd.SparseLatents.from_dense(latents)
        sparse = sd.SparseLatents(sparse.values, sparse.support.with_memory(workspace), sparse.batch_shape)
    weights = [latents, *dictionary.parameters()]

    def gradients(outputs: Tensor) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(outputs.square().sum(), weights, allow_unused=True)

    outputs = dictionary.reconstruct(sparse, x)
    scales = torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64).repeat_interleave(4)
    wanted = (latents @ dictionary.decoder + dictionary.decoder_bias) * scales
    wanted = wanted + x @ torch.block_diag(*dictionary.skips).T
    torch.testing.assert_close(outputs, wanted)
    for found, meant in zip(gradients(outputs), gradients(wanted), strict=True):
        if meant is None:
            assert found is None
            continue
        assert found is not None
        # The gradient of a latent that isn't stored isn't computed.
        is_latents = found.shape == latents.shape
        torch.testing.assert_close(found, meant * (latents != 0) if is_latents and stored else meant)
