"""Autoencoders have the interface that SAEBench uses; with the package installed, its functions accept them."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsedict as sd
from sparsedict.formats import SAEBenchAutoencoder, as_sae_bench

NAMES: dict[str, Any] = {"model_name": "gpt2", "hook_name": "blocks.1.hook_mlp_out", "hook_layer": 1}
ACTIVATIONS = [sd.TopK(3), sd.BatchTopK(3), sd.ReLU(), sd.JumpReLU(threshold=0.2), sd.Gated()]
DOCUMENTED = ("W_enc", "W_dec", "b_enc", "b_dec", "device", "dtype", "cfg", "encode", "decode", "forward", "to")


def sae(activation: sd.Activation, **parts: Any) -> tuple[sd.SparseAutoencoder, Tensor]:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) + 2
    made = sd.SparseAutoencoder(8, 24, activation=activation, **{"decoder_norm": sd.Free(), **parts})
    made.initialise_(x, x)
    with torch.no_grad():
        made.decoder.mul_(torch.linspace(0.5, 3, 24)[:, None])
        made.encoder_bias.add_(0.1)
    if isinstance(activation, sd.BatchTopK):
        sd.fit(made, x, n_tokens=128, batch_size=32, progress=False)
    return made.eval(), x


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda part: type(part).__name__)
@torch.no_grad()
def test_outputs_are_those_of_the_dictionary(activation: sd.Activation) -> None:
    dictionary, x = sae(activation)
    adapted = as_sae_bench(dictionary, **NAMES)
    batch = x.view(4, 16, 8)
    latents, reconstruction = dictionary(batch)
    norms = dictionary.decoder.norm(dim=1)
    torch.testing.assert_close(adapted.encode(batch), latents * norms)
    torch.testing.assert_close(adapted(batch), reconstruction)
    torch.testing.assert_close(adapted.decode(adapted.encode(batch)), reconstruction)
    torch.testing.assert_close(adapted.W_dec.norm(dim=1), torch.ones(24))
    assert (adapted.W_enc.shape, adapted.W_dec.shape) == ((8, 24), (24, 8))


@torch.no_grad()
def test_an_affine_norm_is_folded_and_another_one_is_an_error() -> None:
    dictionary, x = sae(sd.TopK(3), input_norm=sd.InputStandardise())
    torch.testing.assert_close(as_sae_bench(dictionary, **NAMES)(x), dictionary(x).reconstruction)
    dictionary, _ = sae(sd.TopK(3), input_norm=sd.InputRMSNorm())
    with pytest.raises(ValueError, match="`input_norm` must be the same affine map"):
        as_sae_bench(dictionary, **NAMES)


def test_it_is_a_copy_that_is_not_trained() -> None:
    dictionary, x = sae(sd.TopK(3))
    adapted = as_sae_bench(dictionary, **NAMES)
    before = adapted(x)
    with torch.no_grad():
        dictionary.decoder.zero_()
    assert torch.equal(adapted(x), before)
    assert not any(weight.requires_grad for weight in adapted.parameters())
    assert all(hasattr(adapted, name) for name in DOCUMENTED)
    half = adapted.to(device=torch.device("cpu"), dtype=torch.bfloat16)
    assert (half.dtype, half.encode(x).dtype) == (torch.bfloat16, torch.bfloat16)
    json.dumps(adapted.cfg.to_dict())


def test_other_dictionaries_are_rejected() -> None:
    distiller = sd.SparseDistiller(8, 8, 24, activation=sd.TopK(3), decoder_norm=sd.UnitNorm())
    with pytest.raises(TypeError, match="dictionary"):
        as_sae_bench(distiller, **NAMES)  # type: ignore[arg-type]
    dictionary, _ = sae(sd.TopK(3))
    with pytest.raises(ValueError, match="`hook_layer` must"):
        as_sae_bench(dictionary, **{**NAMES, "hook_layer": -1})
    with pytest.raises(TypeError, match="`hook_name` must"):
        as_sae_bench(dictionary, **{**NAMES, "hook_name": ""})


class Store:
    """What SAEBench's core evaluation uses of an activations store of SAELens."""

    def __init__(self, tokens: Tensor, model: nn.Module) -> None:
        self.tokens, self.model, self.n_batches = tokens, model, 0
        self.device = torch.device("cpu")

    def get_batch_tokens(self, batch_size: int) -> Tensor:
        start = self.n_batches * batch_size % len(self.tokens)
        self.n_batches += 1
        return self.tokens[start : start + batch_size]

    def apply_norm_scaling_factor(self, activations: Tensor) -> Tensor:
        return activations

    def unscale(self, activations: Tensor) -> Tensor:
        return activations


def released(module: str) -> Any:
    pytest.importorskip("sae_bench", reason="SAEBench requires older versions of NumPy and datasets than the tests")
    return importlib.import_module(f"sae_bench.{module}")


@pytest.fixture(scope="module")
def hooked() -> Any:
    """A small untrained model of TransformerLens."""
    released("evals.core.main")
    lens = pytest.importorskip("transformer_lens")
    torch.manual_seed(0)
    config = lens.HookedTransformerConfig(
        n_layers=2, d_model=8, n_ctx=32, d_head=4, n_heads=2, d_mlp=16, d_vocab=50, act_fn="relu", device="cpu"
    )
    return lens.HookedTransformer(config)


@pytest.mark.filterwarnings("default")
def test_the_released_package_accepts_it() -> None:
    utils = released("sae_bench_utils.general_utils")
    adapted = as_sae_bench(sae(sd.BatchTopK(3))[0], **NAMES)
    _, same, _ = utils.load_and_format_sae("custom", adapted, "cpu")
    assert same is adapted
    assert utils.check_decoder_norms(adapted.W_dec.data)
    assert vars(adapted.cfg)["architecture_str"] == "sparsedict"
    base = released("custom_saes.base_sae").BaseSAE
    assert all(hasattr(adapted, name) for name in base.__abstractmethods__)
    own = vars(released("custom_saes.custom_sae_config").CustomSAEConfig("m", 1, 2, 3, "h"))
    assert own.keys() <= vars(adapted.cfg).keys()


@pytest.mark.filterwarnings("default")
@torch.no_grad()
def test_the_core_evaluation_of_the_released_package_runs(hooked: Any) -> None:
    core = released("evals.core.main")
    tokens = torch.randint(50, (16, 32), generator=torch.Generator().manual_seed(1))
    hook = NAMES["hook_name"]
    x = hooked.run_with_cache(tokens, names_filter=[hook])[1][hook].flatten(0, 1)
    dictionary = sd.SparseAutoencoder(8, 24, activation=sd.TopK(3), decoder_norm=sd.UnitNorm())
    with torch.enable_grad():
        sd.fit(dictionary, x, n_tokens=4096, batch_size=64, progress=False)
    adapted = as_sae_bench(dictionary, **NAMES)
    released("sae_bench_utils.general_utils").load_and_format_sae("custom", adapted, "cpu")
    metrics, _ = core.get_sparsity_and_variance_metrics(
        adapted,
        hooked,
        Store(tokens, hooked),
        n_batches=2,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        eval_batch_size_prompts=8,
        model_kwargs={},
        ignore_tokens=set(),
        verbose=False,
    )
    assert metrics["l0"] == pytest.approx(3, abs=1e-3)
    # The mean over batches of the error per token, divided by the 256 tokens of a batch.
    error = float(sd.metrics.squared_error(dictionary.eval()(x).reconstruction, x))
    assert 256 * metrics["mse"] == pytest.approx(error, rel=1e-4)
    weights = core.get_featurewise_weight_based_metrics(adapted)
    assert len(weights["encoder_bias"]) == 24


@pytest.mark.filterwarnings("default")
@torch.no_grad()
def test_latents_for_probes_are_those_of_the_dictionary() -> None:
    collection = released("sae_bench_utils.activation_collection")
    dictionary, x = sae(sd.TopK(3))
    adapted = as_sae_bench(dictionary, **NAMES)
    means = collection.get_sae_meaned_activations({"label": x.view(4, 16, 8)}, adapted, 2)
    assert means["label"].shape == (4, 24)
    dense = adapted.encode(x.view(4, 16, 8))
    torch.testing.assert_close(means["label"].float(), dense.sum(1) / 16, rtol=1e-3, atol=1e-3)


def test_the_class_is_exported() -> None:
    assert isinstance(as_sae_bench(sae(sd.TopK(3))[0], **NAMES), SAEBenchAutoencoder)
