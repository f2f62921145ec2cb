"""Capturing and replacing at a site."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparsedict.activations import ReLU
from sparsedict.dictionaries import SparseAutoencoder, SparseDistiller
from sparsedict.interventions import Ablation
from sparsedict.norms import Free
from sparsedict.sites import Constant, Neurons, Site, Sites, capture_sites

from . import _models


class Halves:
    """A foreign object: two latents per unit of width."""

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x.relu(), (-x).relu()], dim=-1)

    def decode(self, latents: Tensor) -> Tensor:
        positive, negative = latents.chunk(2, dim=-1)
        return positive - negative


class Skipping(Halves):
    """One whose output also depends on its input."""

    reads = writes = "outputs"

    def decode(self, latents: Tensor) -> Tensor:
        return torch.zeros_like(super().decode(latents))

    def reconstruct(self, latents: Tensor, inputs: Tensor) -> Tensor:
        return self.decode(latents) + inputs


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def model() -> Iterator[_models.Plain]:
    model = _models.Plain()
    yield model
    assert n_hooks(model) == 0


@pytest.fixture
def site(model: _models.Plain) -> Site:
    return Site(model, "mlp")


@pytest.fixture
def tokens() -> Tensor:
    return _models.tokens()


def test_capture_gives_the_module_s_inputs_and_outputs(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    captured = site.capture(tokens, neurons=True)
    assert captured.shape == tokens.shape
    assert captured.mask.all()
    assert not captured.outputs.requires_grad
    inputs = model.first(model.embedding(tokens))
    torch.testing.assert_close(captured.inputs, inputs)
    torch.testing.assert_close(captured.neurons, model.mlp[1](model.mlp[0](inputs)))
    torch.testing.assert_close(captured.outputs, model.mlp(inputs))
    assert captured.batch().n_tokens == tokens.numel()


def test_capture_of_nothing_is_empty(site: Site, tokens: Tensor) -> None:
    captured = site.capture(tokens[:0], neurons=True)
    assert captured.neurons is not None
    assert captured.outputs.shape == (*tokens[:0].shape, site.d_out)
    assert captured.neurons.shape == (*tokens[:0].shape, site.neurons.n)


def test_capture_stops_after_the_site(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    whole = site.capture(tokens)
    # The first capture runs the model to its end on a few tokens, to see that it calls the MLP once.
    assert (model.first.n_calls, model.last.n_calls) == (2, 1)
    torch.testing.assert_close(site.capture(tokens).outputs, whole.outputs)
    assert (model.first.n_calls, model.last.n_calls) == (3, 1)


def test_capture_leaves_the_mode_alone(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    for mode in (True, False):
        model.train(mode)
        site.capture(tokens)
        assert model.training is mode


def test_capture_survives_work_in_place(tokens: Tensor) -> None:
    model = _models.Plain()
    model.mlp = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(_models.WIDTH, _models.WIDTH))
    captured = Site(model, "mlp").capture(tokens)
    torch.testing.assert_close(captured.inputs, model.first(model.embedding(tokens)))
    with torch.inference_mode():
        captured = Site(model, "mlp").capture(tokens)
    assert (captured.inputs < 0).any()


def test_several_sites_from_one_pass(model: _models.Plain, tokens: Tensor) -> None:
    sites = {
        "mlp": Site(model, "mlp", exclude_first=1),
        "first": Site(model, reads="first.up:in", writes="first.down:out"),
        "stream": Site(model, reads="first:out", writes="first:out"),
    }
    captured = capture_sites(sites, tokens, neurons=["mlp"])
    assert (model.first.n_calls, model.last.n_calls) == (
        2,
        1,
    )  # of these, one call each is the check that they are called once
    assert "mlp.neurons" in captured
    assert "first.neurons" not in captured
    assert captured.kept.sum() == tokens.numel() - len(tokens)
    assert torch.equal(captured.tokens, tokens)
    for name, site in sites.items():
        torch.testing.assert_close(captured.site(name).outputs, site.capture(tokens).outputs)
    assert captured["stream.inputs"].data_ptr() == captured["stream.outputs"].data_ptr()


def test_sites_of_two_models_are_captured_on_the_same_tokens(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    other = Site(_models.Plain(), "mlp")
    captured = Sites({"base": site, "tuned": other}).capture(tokens)
    torch.testing.assert_close(captured["base.outputs"], site.capture(tokens).outputs)
    torch.testing.assert_close(captured["tuned.outputs"], other.capture(tokens).outputs)
    assert Sites({"base": site, "tuned": other}).models == (model, other.model)


def test_sites_are_named_paths_of_one_model(model: _models.Plain, site: Site) -> None:
    sites = Sites(model, {"0": "mlp", "1": "first"}, exclude_first=2)
    assert list(sites) == ["0", "1"]
    assert all(own.exclusion.n_first == 2 for own in sites.values())
    for wrong, error in (({}, ValueError), ({"": site}, ValueError), ({"a": "mlp"}, TypeError)):
        with pytest.raises(error):
            Sites(wrong)
    with pytest.raises(TypeError, match="`paths` must map names to paths"):
        Sites(model)


def test_hooks_leave_after_an_error(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    def fail(*_: object) -> None:
        raise IndexError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(model), "forward", fail)
        with pytest.raises(IndexError):
            site.capture(tokens)
    assert n_hooks(model) == 0
    with pytest.raises(KeyError), site.replaced(site.neurons):
        raise KeyError
    assert n_hooks(model) == 0
    with pytest.raises(IndexError), site.replaced(site.neurons):
        model(tokens + 1000)
    assert n_hooks(model) == 0


def test_ablating_nothing_with_the_error_added_is_the_identity(site: Site, tokens: Tensor) -> None:
    with torch.no_grad():
        expected = site.logits(tokens)
        random = Neurons(torch.randn(8, _models.WIDTH), torch.randn(8, _models.WIDTH), torch.relu)
        with site.replaced(random, error_term=True):
            assert torch.equal(site.logits(tokens), expected)
        nothing = Ablation(torch.zeros(8, dtype=torch.bool))
        with site.replaced(random, intervention=nothing, error_term=True):
            assert torch.equal(site.logits(tokens), expected)
        with site.replaced(random):
            assert not torch.allclose(site.logits(tokens), expected)


def test_ablating_everything_is_the_decoder_bias(site: Site, tokens: Tensor) -> None:
    neurons = site.neurons
    everything = Ablation(torch.ones(neurons.n, dtype=torch.bool))
    with torch.no_grad(), site.replaced(neurons, intervention=everything):
        ablated = site.logits(tokens)
    with torch.no_grad(), site.ablated(neurons.decoder_bias):
        torch.testing.assert_close(site.logits(tokens), ablated)
    with torch.no_grad(), site.replaced(Constant(neurons.decoder_bias)):
        torch.testing.assert_close(site.logits(tokens), ablated)


def test_a_dictionary_reconstructs_with_its_skip(site: Site, tokens: Tensor) -> None:
    with torch.no_grad():
        expected = site.logits(tokens)
        with site.replaced(Skipping()):
            torch.testing.assert_close(site.logits(tokens), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_own_dictionaries_stand_in(site: Site, tokens: Tensor, dtype: torch.dtype) -> None:
    parts = {"activation": ReLU(), "decoder_norm": Free(), "dtype": dtype}
    captured = site.capture(tokens)
    distiller = SparseDistiller(site.d_in, site.d_out, 24, skip=True, **parts)
    torch.nn.init.normal_(distiller.skip)
    for dictionary in (
        distiller,
        SparseAutoencoder(site.d_out, 24, **parts),
        SparseAutoencoder(site.d_in, 24, reads="inputs", **parts),
    ):
        inputs, _ = dictionary.select(captured.batch())
        expected = dictionary(inputs.to(dtype)).reconstruction.view(captured.outputs.shape).float()
        with torch.no_grad(), site.replaced(dictionary):
            seen = Site(site.model, "mlp").capture(tokens)
        given = seen.inputs if dictionary.writes == "inputs" else seen.outputs
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("role", ["inputs", "outputs", "neurons"])
def test_every_role_can_be_replaced(site: Site, tokens: Tensor, role: str) -> None:
    with torch.no_grad():
        expected = site.logits(tokens)
        with site.replaced(Halves(), reads=role, writes=role):
            torch.testing.assert_close(site.logits(tokens), expected)
        with site.replaced(Halves(), reads=role, writes=role, intervention=torch.zeros_like):
            assert not torch.allclose(site.logits(tokens), expected)


def test_gradients_flow_through_a_replacement(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    scale = torch.ones((), requires_grad=True)
    for error_term in (False, True):
        model.zero_grad()
        scale.grad = None
        with site.replaced(site.neurons, intervention=lambda latents: latents * scale, error_term=error_term):
            site.logits(tokens).square().sum().backward()
        assert scale.grad is not None
        assert scale.grad.abs() > 0
        assert model.embedding.weight.grad is not None
        assert model.mlp[0].weight.grad is None


def test_several_sites_can_be_replaced(model: _models.Plain, tokens: Tensor) -> None:
    sites = [Site(model, "mlp"), Site(model, reads="last.up:in", writes="last.down:out")]
    with torch.no_grad():
        expected = model(tokens)
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(site.replaced(site.neurons))
            torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=0)
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(site.ablated())
            both = model(tokens)
        with sites[0].ablated():
            one = model(tokens)
    assert not torch.allclose(both, one)


def test_excluded_positions_pass_through(model: _models.Plain, tokens: Tensor) -> None:
    tokens[0, 3] = 0
    site = Site(model, "mlp", exclude_tokens=[0], exclude_first=2)
    mask = site.capture(tokens).mask
    assert not mask[:, :2].any()
    assert not mask[0, 3]
    assert mask.sum() == tokens.numel() - 2 * len(tokens) - 1
    whole = Site(model, "last")
    expected = whole.capture(tokens).inputs
    with site.ablated():
        ablated = whole.capture(tokens).inputs
    assert torch.equal(ablated[~mask], expected[~mask])
    assert ((ablated - expected).abs().amax(-1)[mask] > 0).all()


def test_exclusion_without_tokens_raises(model: _models.Plain) -> None:
    mlp = model.mlp
    site = Site(mlp, "2", exclude_tokens=[0])
    with pytest.raises(ValueError, match="needs token ids"):
        site.capture(torch.randn(3, _models.WIDTH))
    with pytest.raises(ValueError, match="needs sequences"):
        Site(mlp, "2", exclude_first=1).capture(torch.randn(3, _models.WIDTH))
    assert Site(mlp, "2", exclude_first=1).capture(torch.randn(3, 5, _models.WIDTH)).mask.sum() == 12


def test_a_module_that_takes_activations(model: _models.Plain) -> None:
    layer = Site(model.mlp, reads="0:in", writes="2:out")
    x = torch.randn(6, _models.WIDTH)
    captured = layer.capture(x)
    torch.testing.assert_close(captured.outputs, model.mlp(x))
    assert (layer.d_in, layer.d_out) == (_models.WIDTH, _models.WIDTH)
    with layer.replaced(layer.neurons):
        torch.testing.assert_close(model.mlp(x), captured.outputs)


def test_padding_is_given_by_the_attention_mask() -> None:
    model = _models.hugging_face("llama")
    tokens = _models.tokens()
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0  # on the left
    mask[1, -2:] = 0  # on the right
    site = Site(model, "model.layers.1.mlp", exclude_first=1)
    given = {"input_ids": tokens, "attention_mask": mask}
    kept = mask.bool().clone()
    kept[0, 3] = kept[1, 0] = False
    assert torch.equal(site.capture(given).mask, kept)
    later = Site(model, "model.layers.2.input_layernorm")
    expected = later.capture(given).inputs
    with site.ablated():
        ablated = later.capture(given).inputs
        assert site.logits(given).shape == (*tokens.shape, _models.VOCABULARY)
    changed = (ablated - expected).abs().amax(-1) > 0
    assert torch.equal(changed, kept)


def test_generation_with_a_cache_counts_positions_from_the_beginning() -> None:
    model = _models.hugging_face("llama")
    site = Site(model, "model.layers.1.mlp", exclude_first=4)
    tokens = _models.tokens(1, 8)
    with torch.no_grad(), site.ablated():
        whole = model(input_ids=tokens).logits
        # The name of the cache, which transformers 5.24 changed.
        name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        first = model(input_ids=tokens[:, :5], use_cache=True)
        second = model(input_ids=tokens[:, 5:], **{name: first[name]})
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5, rtol=1e-4)


def test_tokens_are_known_when_transformer_lens_runs_its_own_hooks(tmp_path: Path) -> None:
    model = _models.bridge("gpt_neo", tmp_path)
    tokens = _models.tokens()
    site = Site(model, "blocks.1.mlp", exclude_tokens=[int(tokens[0, 2])])
    with torch.no_grad(), site.ablated():
        direct = model(tokens)
        written = {}
        hook = ("blocks.1.hook_mlp_out", lambda value, hook: written.update(value=value))
        torch.testing.assert_close(model.run_with_hooks(tokens, fwd_hooks=[hook]), direct)
    zero = (written["value"] == 0).all(-1)
    assert torch.equal(zero, site.capture(tokens).mask)


def test_transformer_lens_takes_the_tokenizer_s_mapping(tmp_path: Path) -> None:
    model = _models.bridge("gpt2", tmp_path)
    tokens = _models.tokens()
    mask = torch.ones_like(tokens)
    mask[0, -2:] = 0
    site = Site(model, "blocks.1.mlp")
    given = {"input_ids": tokens, "attention_mask": mask}
    assert torch.equal(site.capture(given).mask, mask.bool())
    torch.testing.assert_close(site.logits(given), model(tokens, attention_mask=mask))


@pytest.mark.filterwarnings("ignore:.*folded into its encoder")
@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradients_flow_through_transformer_lens(tmp_path: Path, family: str, compatible: bool) -> None:
    model = _models.bridge(family, tmp_path)
    if compatible:
        model.enable_compatibility_mode(disable_warnings=True)
    tokens = _models.tokens()
    parameter = model.embed.original_component.weight
    (expected,) = torch.autograd.grad(model(tokens).square().sum(), parameter)
    own_hooks = n_hooks(model)  # TransformerLens adds some of its own in its first forward pass
    before = Site(model, reads="blocks.1.ln2.hook_normalized", writes="blocks.1.mlp.hook_out")
    for site in (Site(model, "blocks.1.mlp"), before):
        with site.replaced(site.neurons):
            (gradient,) = torch.autograd.grad(model(tokens).square().sum(), parameter)
        torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)
    model(tokens)  # TransformerLens removes its own in the next one
    assert n_hooks(model) == own_hooks
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_half_precision() -> None:
    model = _models.hugging_face("llama").to(torch.bfloat16)
    site = Site(model, "model.layers.1.mlp")
    tokens = _models.tokens()
    captured = site.capture(tokens, neurons=True)
    assert captured.outputs.dtype == captured.neurons.dtype == torch.bfloat16
    with torch.no_grad():
        expected = site.logits(tokens)
        with site.replaced(site.neurons):
            torch.testing.assert_close(site.logits(tokens), expected, atol=2e-2, rtol=2e-2)
        full = Neurons(torch.randn(8, _models.WIDTH), torch.randn(8, _models.WIDTH), torch.relu)
        with site.replaced(full, error_term=True):
            assert torch.equal(site.logits(tokens), expected)


def test_neurons_by_hand(model: _models.Plain, tokens: Tensor) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(_models.WIDTH, 5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.a) @ self.a.T

    model.mlp = Product()
    with pytest.raises(ValueError, match=r"`neurons` looked for two linear layers.*found none of these"):
        _ = Site(model, "mlp").neurons
    by_value = Site(model, "mlp", neurons=Neurons(model.mlp.a.detach().T, model.mlp.a.detach().T, torch.tanh))
    by_function = Site(model, "mlp", neurons=lambda module: Neurons(module.a.T, module.a.T, torch.tanh))
    with torch.no_grad():
        expected = model(tokens)
        for site in (by_value, by_function):
            with site.replaced(site.neurons):
                torch.testing.assert_close(model(tokens), expected)
            assert site.capture(tokens, neurons=True).neurons.shape == (*tokens.shape, 5)
    with pytest.raises(ValueError, match="no known point with the activations of the neurons"):
        by_value.point("neurons")


def test_neurons_that_do_not_fit_raise(model: _models.Plain) -> None:
    with pytest.raises(ValueError, match=r"none of the \d+ candidates reproduces the site's output.*reads="):
        _ = Site(model, "first").neurons
    with pytest.raises(ValueError, match="reads an MLP's input and writes its output"):
        _ = Site(model, reads="first:out", writes="first:out").neurons


def test_a_residual_stream_knows_its_width(model: _models.Plain) -> None:
    site = Site(model, reads="first:out", writes="first:out")
    assert site.d_in == site.d_out == _models.WIDTH
    assert repr(site) == "Site(Plain, 'first:out')"


def test_a_path_that_leads_nowhere_lists_near_names() -> None:
    model = _models.hugging_face("gpt2")
    with pytest.raises(ValueError, match=r"transformer\.h\.1\.ml'.*Similar names: .*'transformer\.h\.1\.mlp'"):
        Site(model, "transformer.h.1.ml")
    with pytest.raises(ValueError, match=r"MLPs in this model: 'transformer\.h\.0\.mlp'"):
        Site(model, "blocks.1.mlp")
    with pytest.raises(ValueError, match=r"`reads` must name a module"):
        Site(model, reads="h.7:in", writes="transformer.h.1.mlp:out")


def test_near_names_of_transformer_lens(tmp_path: Path) -> None:
    model = _models.bridge("gpt2", tmp_path)
    with pytest.raises(ValueError, match=r"'blocks\.1\.mlp'"):
        Site(model, "block.1.mlp")
    point = Site(model, "blocks.1.hook_resid_post")
    assert point.reads == point.writes


def test_bad_arguments_raise_at_construction(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="both `reads` and `writes`"):
        Site(model)
    with pytest.raises(ValueError, match="`path` must be omitted"):
        Site(model, "mlp", reads="mlp:in")
    with pytest.raises(ValueError, match="must name a side of the module"):
        Site(model, reads="mlp", writes="mlp:out")
    with pytest.raises(ValueError, match="':in' or ':out'"):
        Site(model, reads="mlp:before", writes="mlp:out")
    with pytest.raises(ValueError, match="`exclude_first` must be at least 0"):
        Site(model, "mlp", exclude_first=-1)
    with pytest.raises(ValueError, match="`reads` must name the point that a Halves reads"), site.replaced(Halves()):
        pass
    with pytest.raises(ValueError, match="must be 'outputs' for this Skipping"):
        site.replaced(Skipping(), reads="inputs").__enter__()
    with pytest.raises(TypeError, match="has no `encode`"), site.replaced(nn.Linear(2, 2)):
        pass
    wrong = Neurons(torch.randn(8, 3), torch.randn(8, _models.WIDTH), torch.relu)
    with pytest.raises(ValueError, match="reads activations of width 3"), site.replaced(wrong):
        model(tokens)
    narrow = Neurons(torch.randn(8, _models.WIDTH), torch.randn(8, 3), torch.relu)
    with pytest.raises(ValueError, match=r"must return activations of shape \(2, 7, 16\)"), site.replaced(narrow):
        model(tokens)


@pytest.mark.as_installed
@pytest.mark.parametrize("tokens", [0, [None], ["a"]])
def test_exclude_tokens_must_be_ids(model: _models.Plain, tokens: object) -> None:
    with pytest.raises(TypeError, match="`exclude_tokens` must be a list of token ids"):
        Site(model, "mlp", exclude_tokens=tokens)  # pyright: ignore[reportArgumentType]


@pytest.mark.as_installed
def test_bad_types_raise_at_construction(model: _models.Plain, site: Site) -> None:
    with pytest.raises(TypeError, match="`model` must be"):
        Site("gpt2", "mlp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`path` must be a string"):
        Site(model, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`tokens` must be a tensor"):
        site.capture([[1, 2]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`reads` must be 'inputs', 'outputs' or 'neurons'"):
        site.replaced(Halves(), reads="output").__enter__()  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="`intervention` must be a function"):
        site.replaced(site.neurons, intervention=3).__enter__()  # pyright: ignore[reportArgumentType]


class Wrapper:
    """Like the wrappers of NNsight: no module itself, and its attributes are those of the module."""

    def __init__(self, model: nn.Module) -> None:
        self._module = model

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


@pytest.mark.as_installed
def test_a_wrapper_of_another_library_is_distinguished(model: _models.Plain) -> None:
    wrapper = Wrapper(model)
    with pytest.raises(
        TypeError,
        match=r"got Wrapper\. It wraps a model: for a Wrapper `wrapper`, write `Site\(wrapper\._module, \.\.\.\)`",
    ):
        Site(wrapper, "mlp")  # pyright: ignore[reportArgumentType]
    with torch.device("meta"):
        lazy = Wrapper(_models.Plain())
    with pytest.raises(TypeError, match="Load its weights first"):
        Site(lazy, "mlp")  # pyright: ignore[reportArgumentType]
    assert Site(wrapper._module, "mlp").d_out == _models.WIDTH


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_dictionary_as_a_module_equals_a_replacement(family: str, dtype: torch.dtype) -> None:
    tokens, model = _models.tokens(), _models.hugging_face(family).to(dtype)
    path = _models.FAMILIES[family][-1]
    assert isinstance(path, str)
    site = Site(model, path)
    parts = {"activation": ReLU(), "decoder_norm": Free()}
    distiller = SparseDistiller(_models.WIDTH, _models.WIDTH, 24, skip=True, **parts)
    torch.nn.init.normal_(distiller.skip)
    autoencoder = SparseAutoencoder(_models.WIDTH, 24, **parts)
    block = model.get_submodule(path.rpartition(".")[0])
    mlp = block.mlp
    for dictionary, module in (
        (distiller, distiller.as_module()),
        (autoencoder, nn.Sequential(mlp, autoencoder.as_module())),
    ):
        with torch.no_grad(), site.replaced(dictionary):
            expected = model(tokens).logits
        block.mlp = module
        given = model(tokens).logits
        block.mlp = mlp
        assert torch.equal(given, expected)
        assert not torch.allclose(model(tokens).logits, expected)
        given.float().sum().backward()
        assert all(p.grad is not None for name, p in dictionary.named_parameters() if "decoder" in name)


def test_a_module_of_a_dictionary_shares_its_parameters() -> None:
    dictionary = SparseAutoencoder(4, 8, activation=ReLU(), decoder_norm=Free())
    module = dictionary.as_module()
    assert {id(p) for p in module.parameters()} == {id(p) for p in dictionary.parameters()}
    for shape in ((4,), (0, 4), (2, 4), (2, 3, 5, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        given = module(x)
        assert given.dtype == x.dtype
        # The weights are float32, so both results agree to its precision.
        torch.testing.assert_close(given.float(), dictionary(x.float()).reconstruction)
    with pytest.raises(ValueError, match="`x` must"):
        module(torch.randn(2, 3))
    assert module.train().dictionary.training


def test_activations_where_tokens_belong_raise() -> None:
    model = _models.hugging_face("gpt2")
    site = Site(model, "transformer.h.1.mlp")
    with pytest.raises(TypeError, match="must contain integer token ids"):
        site.capture(torch.randn(2, 7))
    assert site.capture(_models.tokens().to(torch.uint8)).shape == (2, 7)


def test_a_module_that_is_never_called_is_named() -> None:
    model = _models.Plain()
    model.unused = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="never reached `unused:in`"):
        Site(model, "unused").capture(_models.tokens())


def test_a_model_without_logits_is_named() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    site = Site(transformers.GPT2Model(config).eval(), "h.0.mlp")
    with pytest.raises(TypeError, match="language-model head"):
        site.logits(_models.tokens())


def test_activations_are_not_kept_alive(model: _models.Plain, site: Site, tokens: Tensor) -> None:
    with torch.no_grad(), site.replaced(site.neurons):
        model(tokens)
        gc.collect()
        alive = [x for x in gc.get_objects() if type(x) is Tensor and x.shape == (*tokens.shape, _models.WIDTH)]
        assert not alive


@pytest.mark.skipif("SPARSEDICT_TEST_DATA" not in os.environ, reason="needs SPARSEDICT_TEST_DATA")
def test_a_real_model() -> None:
    transformers = pytest.importorskip("transformers")
    numpy = pytest.importorskip("numpy")
    data = Path(os.environ["SPARSEDICT_TEST_DATA"])
    model = transformers.LlamaForCausalLM.from_pretrained(data / "stories260K").eval()
    stories = numpy.load(data / "stories-train-tokens.npy", mmap_mode="r")[-100_000:]
    tokens = torch.as_tensor(stories[: 16 * 256].astype("int64")).view(16, 256)

    def loss(logits: Tensor) -> float:
        return float(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))

    with torch.no_grad():
        for layer in range(5):
            site = Site(model, f"model.layers.{layer}.mlp", exclude_tokens=[1])
            assert site.neurons.n == 172
            expected = site.logits(tokens)
            with site.replaced(site.neurons):
                torch.testing.assert_close(site.logits(tokens), expected, atol=1e-4, rtol=0)
            with site.ablated():
                zeroed = loss(site.logits(tokens))
            assert 0.3 < zeroed - loss(expected) < 1.0
