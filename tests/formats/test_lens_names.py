"""TransformerLens hook names: the activations at a hook equal those at the original point."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import sparsedict as sd
from sites import _models as models
from sparsedict.formats._lens_names import hook_names
from sparsedict.types import Role

POINTS = {
    "gpt2": ["transformer.h.1", "transformer.h.1.attn:out", "transformer.h.1.ln_2", "transformer.h.1.mlp.c_proj"],
    "gpt_neo": ["transformer.h.1", "transformer.h.1.ln_2", "transformer.h.1.mlp.c_proj", "transformer.h.1.mlp.c_fc:in"],
    "gpt_neox": ["gpt_neox.layers.1", "gpt_neox.layers.1.attention:out", "gpt_neox.layers.1.mlp.dense_4h_to_h"],
    "llama": ["model.layers.1", "model.layers.1.self_attn:out", "model.layers.1.mlp.down_proj"],
    "mistral": ["model.layers.1", "model.layers.1.post_attention_layernorm:out", "model.layers.1.mlp.up_proj:in"],
    "qwen3": ["model.layers.1", "model.layers.1.mlp.down_proj"],
    "gemma2": [
        "model.layers.1",
        "model.layers.1.mlp.down_proj",
        "model.layers.1.pre_feedforward_layernorm",
        "model.layers.1.post_feedforward_layernorm",
        "model.layers.1.self_attn:out",
    ],
    "phi": ["model.layers.1", "model.layers.1.mlp.fc1:in", "model.layers.1.mlp.fc2"],
    "phi3": ["model.layers.1", "model.layers.1.mlp.gate_up_proj:in", "model.layers.1.mlp.down_proj"],
    "bert": ["bert.encoder.layer.1.intermediate:out", "bert.encoder.layer.1.output.dense"],
    "opt": ["model.decoder.layers.1", "model.decoder.layers.1.fc2", "model.decoder.layers.1.final_layer_norm:out"],
    "bloom": [
        "transformer.h.1",
        "transformer.h.1.mlp.dense_4h_to_h",
        "transformer.h.1.mlp:out",
        "transformer.h.1.self_attention:out",
    ],
}

OF_LLAMA = ["model.layers.1", "model.layers.1.self_attn:out", "model.layers.1.mlp.down_proj"]
OTHERS = {
    "gemma": OF_LLAMA,
    "gptj": ["transformer.h.1", "transformer.h.1.attn:out", "transformer.h.1.mlp.fc_out"],
    "mixtral": ["model.layers.1", "model.layers.1.self_attn:out"],
    "olmo": OF_LLAMA,
    "qwen2": OF_LLAMA,
    "stablelm": OF_LLAMA,
    "exaone4": [*OF_LLAMA, "model.layers.1.post_feedforward_layernorm"],
    "granite": OF_LLAMA,
    "mpt": ["transformer.blocks.1", "transformer.blocks.1.attn:out", "transformer.blocks.1.ffn"],
    "glm4": OF_LLAMA,
    "xglm": ["model.layers.1", "model.layers.1.self_attn:out", "model.layers.1.fc2"],
}
"""Families whose activations are compared at hooks, without runs of SAELens."""


def facts(model: torch.nn.Module, name: str) -> dict[str, str]:
    return {"site": name, "model_class": type(model).__name__}


def hook_values(family: str, folder: Path, hooks: set[str]) -> dict[str, torch.Tensor]:
    bridge = models.bridge(family, folder)
    found: dict[str, torch.Tensor] = {}
    keep = [(name, lambda value, hook, name=name: found.update({name: value.detach()})) for name in sorted(hooks)]
    bridge.run_with_hooks(models.tokens(), fwd_hooks=keep)
    assert found.keys() == hooks
    return found


def roles(mlp: sd.Site) -> tuple[Role, ...]:
    if type(mlp.model).__name__.startswith("Mixtral"):  # Its experts have no common neurons.
        return "inputs", "outputs"
    return ("inputs", "outputs", "neurons") if mlp.hidden is not None else ("inputs", "outputs")


def points(family: str) -> dict[str, tuple[sd.Site, Role]]:
    """Returns sites of a model, and which of their activations are looked at."""
    mlp = models.mlp(family)
    model = mlp.model
    found: dict[str, tuple[sd.Site, Role]] = {f"{mlp.name} {role}": (mlp, role) for role in roles(mlp)}
    for point in {**POINTS, **OTHERS}[family]:
        for side in [""] if ":" in point else [":in", ":out"]:
            site = sd.Site(model, reads=f"{point}{side}", writes=f"{point}{side}")
            found[f"{point}{side}"] = (site, "outputs")
    return found


@pytest.mark.parametrize("family", {**POINTS, **OTHERS})
def test_hooks_carry_the_numbers_of_the_point(family: str, tmp_path: Path) -> None:
    pytest.importorskip("transformer_lens", reason="needs TransformerLens")
    if family in OTHERS and importlib.metadata.version("transformer-lens") < "4":
        pytest.skip("These families are compared under TransformerLens 4.")
    sites = points(family)
    names = {}
    for name, (site, role) in sites.items():
        names[name] = hook_names(facts(site.model, site.name), role, role)[0]
    assert None not in names.values(), names
    values = hook_values(family, tmp_path, set(names.values()))
    for name, (site, role) in sites.items():
        wanted = site.capture(models.tokens(), neurons=role == "neurons")
        wanted = getattr(wanted, role)
        got = values[names[name]].reshape(wanted.shape)
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}, {names[n]}: {m}")


def spliced_logits(family: str, folder: Path, dictionary: sd.Dictionary) -> torch.Tensor:
    """Returns the logits of SAELens with the written dictionary in the model."""
    sae_lens = pytest.importorskip("sae_lens", reason="SAELens needs TransformerLens 3; .ci/lens3 installs both")
    analysis = pytest.importorskip("sae_lens.analysis.sae_transformer_bridge")
    sd.formats.sae_lens.write(dictionary, folder / "sae", model_name=f"tiny-{family}")
    kind = sae_lens.Transcoder if isinstance(dictionary, sd.SparseDistiller) else sae_lens.SAE
    model = models.bridge(family, folder, analysis.SAETransformerBridge)
    return model.run_with_saes(models.tokens(), saes=[kind.load_from_disk(str(folder / "sae"))])


def random_dictionary(mlp: sd.Site, reads: Literal[Role, "distiller"]) -> sd.Dictionary:
    parts: dict[str, Any] = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm()}
    if reads == "distiller":
        dictionary = sd.SparseDistiller(mlp.d_in, mlp.d_out, 32, **parts)
    else:
        width = getattr(mlp.capture(models.tokens(), neurons=reads == "neurons"), reads).shape[-1]
        dictionary = sd.SparseAutoencoder(width, 32, reads=reads, **parts)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter).abs())
    dictionary.trained_on = facts(mlp.model, mlp.name)
    return dictionary


@pytest.mark.filterwarnings("ignore:.*HookedSAETransformer has no hook:UserWarning")
@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs:UserWarning")
@pytest.mark.parametrize("reads", ["inputs", "outputs", "neurons", "distiller"])
@pytest.mark.parametrize("family", POINTS)
def test_saelens_replaces_the_same_activations(family: str, reads: Literal[Role, "distiller"], tmp_path: Path) -> None:
    mlp = models.mlp(family)
    if reads == "neurons" and mlp.hidden is None:
        pytest.skip("This family's MLP has no neurons of its own.")
    dictionary = random_dictionary(mlp, reads)
    if (family, reads) == ("opt", "distiller"):
        # The two hooks have different shapes there, which SAELens' wrapper around the output doesn't convert.
        with pytest.raises(RuntimeError, match="size of tensor"):
            spliced_logits(family, tmp_path, dictionary)
        return
    got = spliced_logits(family, tmp_path, dictionary)
    tokens = models.tokens()
    with torch.no_grad():
        unchanged = mlp.model(tokens).logits
        with mlp.replaced(dictionary):
            wanted = mlp.model(tokens).logits
    assert (wanted - unchanged).abs().max() > 1e-2
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


ROLES: list[tuple[str, Role, str | None]] = [
    ("transformer.h.11.mlp", "inputs", "blocks.11.mlp.hook_in"),
    ("transformer.h.11.mlp", "outputs", "blocks.11.hook_mlp_out"),
    ("transformer.h.11.mlp", "neurons", "blocks.11.mlp.hook_post"),
    ("h.3.mlp", "outputs", "blocks.3.hook_mlp_out"),
    ("layers.3.mlp", "outputs", "blocks.3.hook_mlp_out"),
    ("model.layers.3.mlp", "neurons", "blocks.3.mlp.hook_post"),
    ("model.layers.3.mlp.down_proj:in", "outputs", "blocks.3.mlp.hook_post"),
    ("_orig_mod.transformer.h.0.mlp", "outputs", "blocks.0.hook_mlp_out"),
    ("base_model.model.model.layers.3.mlp", "outputs", "blocks.3.hook_mlp_out"),
    ("module.gpt_neox.layers.2.mlp", "inputs", "blocks.2.mlp.hook_in"),
    ("model.language_model.layers.3.mlp", "inputs", "blocks.3.mlp.hook_in"),
    ("transformer.h.1.ln_2:out -> transformer.h.1.mlp:out", "inputs", "blocks.1.mlp.hook_in"),
    ("transformer.h.1.ln_2:out -> transformer.h.1.mlp:out", "outputs", "blocks.1.hook_mlp_out"),
    ("blocks.1.mlp", "inputs", "blocks.1.mlp.hook_in"),
    ("blocks.1.mlp", "outputs", "blocks.1.hook_mlp_out"),
    ("blocks.1.mlp.hook_in -> blocks.1.mlp.hook_out", "outputs", "blocks.1.mlp.hook_out"),
    ("blocks.1.ln2.hook_normalized -> blocks.1.hook_mlp_out", "inputs", "blocks.1.ln2.hook_normalized"),
    ("blocks.1.hook_resid_pre", "outputs", "blocks.1.hook_resid_pre"),
    ("blocks.1.attn.hook_z", "outputs", "blocks.1.attn.hook_z"),
    ("hook_embed", "outputs", "hook_embed"),
    ("model.decoder.layers.3.fc1:in -> model.decoder.layers.3.fc2:out", "inputs", "blocks.3.mlp.in.hook_in"),
    ("bert.encoder.layer.3.intermediate:in", "inputs", "blocks.3.mlp.in.hook_in"),
    ("transformer.h.1", "neurons", None),
    ("bert.encoder.layer.1", "outputs", None),
    ("bert.encoder.layer.1.attention:out", "outputs", None),
    ("encoder.block.1.layer.1.DenseReluDense", "outputs", None),
    ("model.layers.3.mlp.experts.5", "outputs", None),
    ("model.layers.3.block_sparse_moe", "outputs", None),
    ("vision_model.encoder.layers.3.mlp", "outputs", None),
    ("model.layers.3.self_attn.o_proj:in", "outputs", None),
    ("", "outputs", None),
    ("a -> b -> c", "outputs", None),
]


@pytest.mark.parametrize(("site", "role", "hook"), ROLES)
def test_names_by_role(site: str, role: Role, hook: str | None) -> None:
    assert hook_names({"site": site, "architecture": "llama"}, role, role)[0] == hook


@pytest.mark.parametrize(
    "model",
    [
        {"architecture": "gemma2"},
        {"model": "google/gemma-3-1b-pt"},
        {"model_class": "Olmo2ForCausalLM"},
        {"architecture": "a_new_family"},
        {"model_class": "MyModel", "model": "llama"},
        {"model_class": "TransformerBridge", "architecture": "llama"},
        {},
    ],
)
def test_the_hooks_of_other_families_are_those_of_the_modules(model: dict[str, str]) -> None:
    names = hook_names({"site": "model.layers.3.mlp", **model}, "inputs", "outputs")
    assert names == ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out")
    attention = {"site": "model.layers.3.self_attn:out", **model}
    assert hook_names(attention, "outputs", "outputs")[1] == "blocks.3.attn.hook_out"
    assert hook_names({"site": "model.layers.3.post_attention_layernorm", **model}, "outputs", "outputs")[1] is None


@pytest.mark.parametrize("model", ["gpt2", "bloom-560m"])
def test_hooked_transformers_add_the_residual_stream_outside_of_the_mlp(model: str) -> None:
    known = {"site": "blocks.3.mlp", "model": model, "model_class": "HookedTransformer"}
    assert hook_names(known, "outputs", "outputs")[1] == "blocks.3.hook_mlp_out"


def test_a_hook_within_a_block_takes_its_layer() -> None:
    known = {"site": "mlp.hook_in -> mlp.hook_out", "layer": 4}
    assert hook_names(known, "inputs", "outputs") == ("blocks.4.mlp.hook_in", "blocks.4.mlp.hook_out")
    assert hook_names({"model": "gpt2"}, "inputs", "outputs") == (None, None)
