"""What errors and warnings suggest is an MLP, by the same proof as the neurons that a site gives out."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsedict.sites import Neurons, Site
from sparsedict.sites._suggest import by_number, mlps, near_names

from . import _models


class Lambda(nn.Module):
    """A block whose MLP is a container that a function calls, as in minGPT."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        width, hidden = _models.WIDTH, _models.HIDDEN
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"up": nn.Linear(width, hidden), "act": nn.SiLU(), "down": nn.Linear(hidden, width)})
        if gated:
            self.mlp["gate"] = nn.Linear(width, hidden)
        m = self.mlp
        self.run = lambda x: m["down"](m["act"](m["gate"](x)) * m["up"](x) if gated else m["act"](m["up"](x)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.run(self.norm(x))


class Lambdas(nn.Module):
    def __init__(self, gated: bool, n_layers: int = 11) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(_models.VOCABULARY, _models.WIDTH)
        self.h = nn.ModuleList([Lambda(gated) for _ in range(n_layers)])
        self.head = nn.Linear(_models.WIDTH, _models.VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.h:
            x = block(x)
        return self.head(x)


def suggested(text: str) -> list[dict[str, str]]:
    """The arguments of the sites that a message suggests."""
    pairs = re.findall(r"reads='([\w.]+:in)', writes='([\w.]+:out)'", text)
    if pairs:
        return [{"reads": reads, "writes": writes} for reads, writes in pairs]
    found = re.search(
        r"MLPs? in (?:this model|it)(?: is)?: ((?:'[\w.]+'[,;] )*'[\w.]+')", text.replace(" is '", " is: '")
    )
    return [] if found is None else [{"path": path} for path in re.findall(r"'([\w.]+)'", found[1])]


def assert_mlps(model: nn.Module, text: str, n: int) -> None:
    sites = [Site(model, **arguments) for arguments in suggested(text)]
    assert len(sites) == n, text
    for site in sites:
        captured = site.capture(_models.tokens(), neurons=True)
        torch.testing.assert_close(captured.outputs, site.neurons.decode(captured.neurons), atol=1e-5, rtol=1e-4)


def test_layers_sort_by_number() -> None:
    assert sorted(["h.10.mlp", "h.2.mlp", "h.1"], key=by_number) == ["h.1", "h.2.mlp", "h.10.mlp"]
    model = _models.hugging_face("gpt2", n_layer=12)
    assert near_names(model, "transformer.h.2.mpl", "path")[0] == "transformer.h.2.mlp"
    assert near_names(model, "transformer.h.x.mlp", "path") == [f"transformer.h.{layer}.mlp" for layer in range(5)]
    # Layers near the one that was asked for come first, not those whose number is spelled alike.
    assert mlps(model, "transformer.h.12.mlp") == [f"'transformer.h.{layer}.mlp'" for layer in (9, 10, 11)]
    assert mlps(model, "transformer.h.0.mpl") == [f"'transformer.h.{layer}.mlp'" for layer in (0, 1, 2)]
    assert near_names(model, "transformer.h.12.mlp", "path")[0] == "transformer.h.11.mlp"
    found = mlps(model, "", below="transformer.h", max_items=12)
    assert found == [f"'transformer.h.{layer}.mlp'" for layer in range(12)]


@pytest.mark.parametrize("family", _models.FAMILIES)
def test_a_wrong_path_suggests_mlps(family: str) -> None:
    model = _models.hugging_face(family)
    place = _models.FAMILIES[family][-1]
    block = (place if isinstance(place, str) else place[0]).rpartition(".1.")[0]
    with pytest.raises(ValueError, match="`path` must name a module") as caught:
        Site(model, f"{block}.1.mpl")
    assert_mlps(model, str(caught.value), 3)
    assert "'" + f"{block}.1.intermediate" + "'" not in str(caught.value)


@pytest.mark.parametrize("family", _models.FAMILIES)
def test_a_block_suggests_its_mlp(family: str) -> None:
    model = _models.hugging_face(family)
    place = _models.FAMILIES[family][-1]
    block = (place if isinstance(place, str) else place[0]).rpartition(".1.")[0] + ".1"
    with pytest.warns(UserWarning, match="contains more than an MLP") as caught:
        site = Site(model, block)
    assert_mlps(model, str(caught[0].message), 1)
    assert f"{block}." in str(caught[0].message)
    with pytest.raises(ValueError, match="MLPs in it:") as error:
        _ = site.neurons
    assert_mlps(model, str(error.value), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Site(model, reads=f"{block}:in", writes=f"{block}:out")


@pytest.mark.parametrize("half", ["intermediate", "output"])
def test_half_an_mlp_names_the_whole(half: str) -> None:
    model = _models.hugging_face("bert")
    with pytest.warns(UserWarning, match="is part of an MLP") as caught:
        Site(model, f"bert.encoder.layer.1.{half}")
    assert_mlps(model, str(caught[0].message), 1)
    assert "layer.1.intermediate:in" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Site(model, reads="bert.encoder.layer.1.intermediate:in", writes="bert.encoder.layer.1.intermediate:out")


@pytest.mark.parametrize("gated", [False, True])
def test_a_container_that_is_never_called(gated: bool) -> None:
    model = Lambdas(gated)
    with pytest.raises(
        ValueError, match=r"'h\.10\.mlp' \(ModuleDict\) must be a module that the model calls"
    ) as caught:
        Site(model, "h.10.mlp")
    assert_mlps(model, str(caught.value), 1)
    assert "writes='h.10.mlp.down:out'" in str(caught.value)
    with pytest.raises(ValueError, match=r"'h' \(ModuleList\)") as caught:
        Site(model, "h")
    assert_mlps(model, str(caught.value), 3)
    with pytest.raises(ValueError, match="`path` must name a module") as caught:
        Site(model, "h.2.mpl")
    assert_mlps(model, str(caught.value), 3)


def test_an_mlp_with_its_residual_suggests_the_points_inside() -> None:
    for family, path in (("bloom", "transformer.h.1.mlp"), ("mpt", "transformer.blocks.1.ffn")):
        model = _models.hugging_face(family)
        with pytest.warns(UserWarning, match="residual stream as an argument, so the output of the site inc") as warned:
            site = Site(model, path)
        assert_mlps(model, str(warned[0].message), 1)
        with pytest.raises(ValueError, match="none of the") as caught:
            _ = site.neurons
        assert_mlps(model, str(caught.value), 1)


class Mixture(nn.Module):
    """Sends each token to one of three MLPs."""

    def __init__(self) -> None:
        super().__init__()
        width, hidden = _models.WIDTH, _models.HIDDEN
        mlp = [nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)) for _ in range(3)]
        self.router, self.experts = nn.Linear(width, 3), nn.ModuleList(mlp)

    def forward(self, x: Tensor) -> Tensor:
        chosen, out = self.router(x).argmax(-1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            out[chosen == index] = expert(x[chosen == index])
        return out


def test_a_mixture_of_experts_is_named() -> None:
    model, tokens = _models.Plain(), _models.tokens()
    model.mlp = Mixture()
    site = Site(model, "mlp")
    with pytest.raises(ValueError, match=r"mixture of experts.*`Site\(model, 'mlp\.experts\.0'\)`"):
        _ = site.neurons
    captured = site.capture(tokens)
    expert = Site(model, "mlp.experts.0")
    seen = expert.capture(tokens)
    chosen = model.mlp.router(captured.inputs).argmax(-1) == 0
    torch.testing.assert_close(seen.inputs, captured.inputs[chosen])
    assert expert.neurons.n == _models.HIDDEN
    with torch.no_grad(), expert.replaced(expert.neurons):
        torch.testing.assert_close(site.capture(tokens).outputs, captured.outputs)


def test_a_mixture_of_fused_experts_is_named() -> None:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads)).eval()
    name = next(name for name, module in model.named_modules() if hasattr(module, "experts") and ".1." in name)
    site = Site(model, name)
    if not hasattr(site.model.get_submodule(f"{name}.experts"), "gate_up_proj"):
        pytest.skip("this version of transformers has a module for each expert")
    with pytest.raises(
        ValueError, match=r"is a mixture of experts.*fused in '.*\.experts' \(gate_up_proj, down_proj\)"
    ):
        _ = site.neurons
    captured = site.capture(_models.tokens())

    def of_expert(module: Any) -> Neurons:
        gate, encoder = module.experts.gate_up_proj[1].chunk(2)
        return Neurons(encoder, module.experts.down_proj[1].T, module.experts.act_fn, gate=gate)

    # The remedy of the message.
    assert Site(model, name, neurons=of_expert).neurons.n == 40
    with torch.no_grad(), site.replaced(_Identity(captured.outputs)):
        torch.testing.assert_close(site.capture(_models.tokens()).outputs, captured.outputs)


@pytest.mark.parametrize(
    ("family", "parts", "mixture", "mlp"),
    [
        (
            "SwitchTransformersForConditionalGeneration",
            {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "num_experts": 3}
            | {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2},
            "encoder.block.1.layer.1.mlp",
            "encoder.block.1.layer.1.mlp.experts.expert_0",
        ),
        (
            "Qwen2MoeForCausalLM",
            {"num_experts": 3, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 24},
            "model.layers.1.mlp",
            "model.layers.1.mlp.shared_expert",
        ),
    ],
)
def test_the_mlps_of_a_mixture_are_named(family: str, parts: dict[str, Any], mixture: str, mlp: str) -> None:
    transformers = pytest.importorskip("transformers")
    if "num_layers" not in parts:
        parts = {**parts, "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2}
        parts |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    kind = getattr(transformers, family)
    model = kind(kind.config_class(vocab_size=50, pad_token_id=0, eos_token_id=1, **parts)).eval()
    with pytest.raises(ValueError, match=rf"is a mixture of experts.*'{re.escape(mlp)}'"):
        _ = Site(model, mixture).neurons
    assert Site(model, mlp).neurons.n == 24


class _Identity:
    """Writes what it was made with."""

    reads, writes = "inputs", "outputs"

    def __init__(self, outputs: Tensor) -> None:
        self._outputs = outputs

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, latents: Tensor) -> Tensor:
        return self._outputs[: len(latents), : latents.shape[1]]
