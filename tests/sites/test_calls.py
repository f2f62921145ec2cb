"""Modules that a forward pass calls several times, modules that are exchanged, and replacements that never happen."""

from __future__ import annotations

import copy
import warnings
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sparsedict.sites import Neurons, Site, capture_sites

from . import _models
from .test_site import n_hooks


class Looped(_models.Plain):
    """A model that runs its MLP three times."""

    n_loops = 3

    def forward(self, ids: Tensor) -> Tensor:
        x = self.first(self.embedding(ids))
        for _ in range(self.n_loops):
            x = x + self.mlp(x)
        return self.head(self.last(x))


class Doubling:
    """Writes twice what it reads, and counts its calls."""

    reads = writes = "outputs"

    def __init__(self) -> None:
        self.n_calls = 0

    def encode(self, x: Tensor) -> Tensor:
        self.n_calls += 1
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return 2 * latents


def shared() -> nn.Module:
    """A model with one MLP at two layers."""
    model = _models.hugging_face("llama")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    return model


def by_hand(model: Looped, ids: Tensor, call: int) -> tuple[list[Tensor], Tensor]:
    """What each call reads, and the logits where one of them has its output doubled."""
    x, seen = model.first(model.embedding(ids)), []
    for index in range(model.n_loops):
        seen.append(x)
        x = x + (1 + (index == call)) * model.mlp(x)
    return seen, model.head(model.last(x))


def test_a_module_that_is_called_again_raises() -> None:
    tokens = _models.tokens()
    model = shared()
    site = Site(model, "model.layers.1.mlp")
    names = r"'model\.layers\.0\.mlp', 'model\.layers\.1\.mlp'"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"`model\.layers\.1\.mlp` \(LlamaMLP\).*call=0.*{names}"):
            site.capture(tokens)
    with pytest.raises(RuntimeError, match=names), site.replaced(Doubling()):
        model(tokens)
    looped = Looped()
    with pytest.raises(RuntimeError, match=r"call=0.*in a loop"):
        Site(looped, "mlp").capture(tokens)
    with pytest.raises(RuntimeError, match=r"call=0.*in a loop"), Site(looped, "mlp").replaced(Doubling()):
        looped(tokens)
    assert n_hooks(model) == n_hooks(looped) == 0


@pytest.mark.parametrize("call", range(3))
def test_a_call_is_named_by_its_number(call: int) -> None:
    model, tokens = Looped(), _models.tokens()
    site, double = Site(model, "mlp", call=call), Doubling()
    assert site.name == f"mlp (call {call})"
    with torch.no_grad():
        seen, expected = by_hand(model, tokens, call)
        captured = site.capture(tokens, neurons=True)
        torch.testing.assert_close(captured.inputs, seen[call])
        torch.testing.assert_close(captured.neurons, site.neurons.encode(seen[call]))
        with site.replaced(double):
            for n_passes in (1, 2):
                torch.testing.assert_close(model(tokens), expected)
                assert double.n_calls == n_passes
        with site.replaced(site.neurons):
            torch.testing.assert_close(model(tokens), by_hand(model, tokens, -1)[1])


def test_several_calls_from_one_pass() -> None:
    model, tokens = Looped(), _models.tokens()
    seen, _ = by_hand(model, tokens, -1)
    captured = capture_sites({str(call): Site(model, "mlp", call=call) for call in (2, 0)}, tokens)
    assert all(torch.equal(captured[f"{call}.inputs"], seen[call]) for call in (2, 0))


def test_a_shared_module_is_one_mlp_at_each_place() -> None:
    model, tokens = shared(), _models.tokens()
    unshared = copy.deepcopy(model)
    unshared.model.layers[1].mlp = copy.deepcopy(unshared.model.layers[1].mlp)
    for layer in range(2):
        site, plain = Site(model, "model.layers.1.mlp", call=layer), Site(unshared, f"model.layers.{layer}.mlp")
        assert torch.equal(site.capture(tokens).outputs, plain.capture(tokens).outputs)
        with torch.no_grad(), site.replaced(Doubling()), plain.replaced(Doubling()):
            assert torch.equal(model(tokens).logits, unshared(tokens).logits)


@pytest.mark.parametrize("shared", ["mlp", "block"])
def test_a_module_that_is_shared_later_raises(shared: str) -> None:
    model = _models.hugging_face("llama")
    site = Site(model, "model.layers.1.mlp")
    site.capture(_models.tokens())
    layers = cast(nn.ModuleList, model.get_submodule("model.layers"))
    if shared == "mlp":
        layers[0].mlp = layers[1].mlp
    else:
        layers[0] = layers[1]
    with pytest.raises(RuntimeError, match=r"The same module is at 'model\.layers\.0\.mlp', 'model\.layers\.1\.mlp'"):
        site.capture(_models.tokens())


def test_tied_weights_are_no_shared_module() -> None:
    model, tokens, double = _models.hugging_face("llama"), _models.tokens(), Doubling()
    for name in ("gate_proj", "up_proj", "down_proj"):
        first, second = (getattr(model.model.layers[layer].mlp, name) for layer in (0, 1))
        second.weight = first.weight
    site = Site(model, "model.layers.1.mlp")
    assert not torch.equal(site.capture(tokens).inputs, Site(model, "model.layers.0.mlp").capture(tokens).inputs)
    with torch.no_grad(), site.replaced(double):
        model(tokens)
    assert double.n_calls == 1


@pytest.mark.filterwarnings("ignore:.*transformers")
def test_a_layer_that_is_repeated() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AlbertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    model = transformers.AlbertForMaskedLM(config).eval()
    ends = [f"albert.encoder.albert_layer_groups.0.albert_layers.0.{end}" for end in ("ffn:in", "ffn_output:out")]
    with pytest.raises(RuntimeError, match="call=0"):
        Site(model, reads=ends[0], writes=ends[1]).capture(_models.tokens())
    inputs = [Site(model, reads=ends[0], writes=ends[1], call=n).capture(_models.tokens()).inputs for n in range(3)]
    assert not torch.equal(inputs[0], inputs[2])


def test_tokens_in_chunks_raise() -> None:
    model = _models.hugging_face("bert", chunk_size_feed_forward=4)
    site = Site(model, reads="bert.encoder.layer.1.intermediate:in", writes="bert.encoder.layer.1.output.dense:out")
    tokens = _models.tokens(2, 8)
    with pytest.raises(RuntimeError, match="chunks of the tokens"):
        site.capture(tokens)
    with pytest.raises(RuntimeError, match="chunks of the tokens"), site.replaced(Doubling()):
        model(tokens)


def test_a_call_that_never_comes_is_named() -> None:
    model, tokens = Looped(), _models.tokens()
    site = Site(model, "mlp", call=3)
    with pytest.raises(RuntimeError, match=r"never reached `mlp:in` \(call 3, counted from 0, of 3\)"):
        site.capture(tokens)
    with pytest.warns(RuntimeWarning, match="call 3.*was called 3 times"), site.replaced(Doubling()):
        model(tokens)
    with pytest.raises(ValueError, match="`call` must be at least 0"):
        Site(model, "mlp", call=-1)


def test_an_exchanged_module_is_found() -> None:
    model, tokens = _models.Plain(), _models.tokens()
    site = Site(model, "mlp")
    old = (site.capture(tokens, neurons=True), site.neurons, site.d_out)
    model.mlp = nn.Sequential(
        nn.Linear(_models.WIDTH, 24, bias=False), nn.Identity(), nn.SiLU(), nn.Linear(24, _models.WIDTH)
    )
    new = site.capture(tokens, neurons=True)
    with torch.no_grad():
        torch.testing.assert_close(new.outputs, model.mlp(old[0].inputs))
        torch.testing.assert_close(new.neurons, model.mlp[:3](old[0].inputs))
        assert site.neurons.n == 24
        expected = model(tokens)
        with site.replaced(site.neurons):
            torch.testing.assert_close(model(tokens), expected)
        with site.ablated():
            assert not torch.allclose(model(tokens), expected)
    # A part of the MLP, as adapters exchange it.
    model.mlp[0] = nn.Sequential(nn.Linear(_models.WIDTH, 24), nn.Linear(24, 24))
    with pytest.raises(ValueError, match=r"none of the|none of these"):
        _ = site.neurons
    assert site.capture(tokens).outputs.shape == old[0].outputs.shape
    del model.mlp
    with pytest.raises(ValueError, match="`path` must name a module of the Plain, got 'mlp'"):
        site.capture(tokens)


def test_a_module_exchanged_while_it_is_replaced() -> None:
    model, tokens = _models.Plain(), _models.tokens()
    site = Site(model, "mlp")
    with site.replaced(Doubling()):
        model(tokens)
        model.mlp = copy.deepcopy(model.mlp)
        with pytest.raises(RuntimeError, match="`mlp` was exchanged for another module inside the context"):
            model(tokens)


@pytest.mark.parametrize("call", [None, 0])
def test_a_replacement_that_never_took_place_is_warned_of(call: int | None) -> None:
    model, tokens = _models.Plain(), _models.tokens()
    site = Site(model, "mlp", call=call)
    message = r"Nothing was replaced at `mlp:out`.*wasn't called"
    with pytest.warns(RuntimeWarning, match=message) as caught, site.replaced(Doubling()):
        copy.deepcopy(model).eval()
    assert caught[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="wasn't called"), site.ablated(torch.zeros(_models.WIDTH)):
        model.first(torch.randn(2, _models.WIDTH))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with site.replaced(Doubling()):
            model(tokens)
        with pytest.raises(KeyError), site.replaced(Doubling()):
            raise KeyError
        with pytest.raises(RuntimeWarning, match="Nothing was replaced"), site.replaced(Doubling()):
            pass
    assert n_hooks(model) == 0


def test_parts_of_a_model_may_be_called_alone() -> None:
    model, double = _models.hugging_face("llama"), Doubling()
    site = Site(model, "model.layers.1.mlp")
    x = torch.randn(1, 3, _models.WIDTH)
    with torch.no_grad(), site.replaced(double):
        expected = 2 * model.model.layers[1].mlp.forward(x)
        for _ in range(2):
            torch.testing.assert_close(model.model.layers[1].mlp(x), expected)
            model.model(_models.tokens())
            model.model(_models.tokens()[:, :3])
    assert double.n_calls == 6


def test_captures_inside_a_replacement_count_for_themselves() -> None:
    model, tokens = Looped(), _models.tokens()
    site, later = Site(model, "mlp", call=1), Site(model, "last")
    with torch.no_grad(), site.replaced(Doubling()):
        captured = later.capture(tokens).inputs
        logits = model(tokens)
        torch.testing.assert_close(site.capture(tokens).inputs, by_hand(model, tokens, 1)[0][1])
    torch.testing.assert_close(logits, model.head(model.last(captured)))
    torch.testing.assert_close(logits, by_hand(model, tokens, 1)[1])


@pytest.mark.parametrize("how", ["wrapper", "in place", "the MLP alone", "forward", "forward of the MLP"])
def test_compiled_models(how: str) -> None:
    tokens = _models.tokens()
    plain = _models.Plain()
    expected = Site(plain, "mlp").capture(tokens)
    model: Any = _models.Plain()
    if how == "wrapper":
        model = torch.compile(model, backend="eager")
    elif how == "in place":
        model.compile(backend="eager")
    elif how.startswith("forward"):
        module = model if how == "forward" else model.mlp
        module.forward = torch.compile(module.forward, backend="eager")
    else:
        model.mlp = torch.compile(model.mlp, backend="eager")
    with torch.no_grad():
        logits = model(tokens)
        for path in ("mlp", "_orig_mod.mlp") if how == "wrapper" else ("mlp",):
            site = Site(model, path)
            torch.testing.assert_close(site.capture(tokens).outputs, expected.outputs)
            assert isinstance(site.neurons, Neurons)
            with site.replaced(Doubling()), Site(plain, "mlp").replaced(Doubling()):
                torch.testing.assert_close(model(tokens), plain(tokens))
        torch.testing.assert_close(model(tokens), logits)


def test_a_compiled_mlp_without_a_length() -> None:
    model: Any = _models.hugging_face("llama")
    expected = Site(model, "model.layers.1.mlp").neurons
    model.model.layers[1].mlp = torch.compile(model.model.layers[1].mlp, backend="eager")
    assert torch.equal(Site(model, "model.layers.1.mlp").neurons.encoder, expected.encoder)


@pytest.mark.parametrize("when", ["before the context", "in the context"])
def test_code_compiled_outside_of_the_model(when: str) -> None:
    tokens, model, plain = _models.tokens(), _models.Plain(), _models.Plain()
    compiled: Any = torch.compile(model, backend="eager")
    function: Any = torch.compile(lambda tokens: model(tokens), backend="eager")
    with torch.no_grad():
        if when == "before the context":
            compiled(tokens), function(tokens)
        with Site(model, "mlp").replaced(Doubling()), Site(plain, "mlp").replaced(Doubling()):
            for call in (compiled, function):
                torch.testing.assert_close(call(tokens), plain(tokens))
        for call in (compiled, function):
            torch.testing.assert_close(call(tokens), plain(tokens))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_rejected() -> None:
    with pytest.raises(TypeError, match=r"`model` must be a model that runs in Python, got a TorchScript module"):
        Site(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), "0")


def test_wrapped_models() -> None:
    tokens, plain = _models.tokens(), _models.Plain()
    model = nn.DataParallel(_models.Plain())
    excluded = [int(tokens[0, 0])]
    site, alone = Site(model, "module.mlp", exclude_tokens=excluded), Site(plain, "mlp", exclude_tokens=excluded)
    assert torch.equal(site.capture(tokens).outputs, alone.capture(tokens).outputs)
    with torch.no_grad(), site.replaced(Doubling()), alone.replaced(Doubling()):
        assert torch.equal(model(tokens), plain(tokens))
