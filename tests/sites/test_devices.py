"""Models whose weights lie elsewhere than where they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsedict.activations import TopK
from sparsedict.analysis import token_effects
from sparsedict.data import ActivationStream
from sparsedict.dictionaries import SparseDistiller
from sparsedict.losses import EndToEnd
from sparsedict.norms import UnitNorm
from sparsedict.sites import Site
from sparsedict.sites._devices import input_device, loaded, module_device
from sparsedict.training import fit

from . import _models

CPU = torch.device("cpu")


class Hook:
    """Like the hooks of Accelerate: runs a module on a device, with weights that it fetches."""

    def __init__(self, execution_device: Any, weights_map: dict[str, Tensor] | None = None) -> None:
        self.execution_device, self.weights_map = execution_device, weights_map


class Several:
    def __init__(self, *hooks: Hook) -> None:
        self.hooks = hooks


def test_a_module_runs_on_the_device_of_its_hook() -> None:
    weight = torch.randn(3, 2)
    for wrap in (lambda hook: hook, lambda hook: Several(Hook(None), hook)):
        layer = nn.Linear(2, 3, device="meta")
        layer._hf_hook = wrap(Hook("cpu", {"weight": weight}))
        assert module_device(nn.Sequential(nn.Identity(), layer)) == CPU
        assert torch.equal(loaded(layer, "weight"), weight)
        assert loaded(layer, "bias").is_meta
        assert loaded(layer, "nothing") is None
    assert module_device(nn.Identity()) is None


def test_tokens_go_to_the_embedding() -> None:
    """Of a model that is split over devices the first parameter may lie anywhere."""
    model = _models.Plain()
    split = nn.Module()
    split.head = nn.Linear(2, 2, device="meta")
    split.embedding = nn.Embedding(4, 2)
    assert input_device(split) == CPU
    assert input_device(model) == CPU
    assert input_device(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert Site(model, "mlp").device == CPU
    model.mlp.to("meta")
    assert Site(model, "mlp").device == torch.device("meta")
    assert Site(model, reads="first:out", writes="first:out").device == CPU


def offloaded(how: str, model: nn.Module, folder: Path) -> nn.Module:
    accelerate = pytest.importorskip("accelerate")
    if how == "disk":
        return accelerate.disk_offload(model, str(folder), execution_device=CPU)
    if how == "part":
        places = {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.layers.1": "disk"}
        places |= {"model.layers.2": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
        return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)
    return accelerate.cpu_offload(model, execution_device=CPU)


@pytest.mark.parametrize("how", ["cpu", "disk", "part"])
def test_models_offloaded_by_accelerate(how: str, tmp_path: Path) -> None:
    tokens, plain = _models.tokens(), _models.hugging_face("llama")
    model = offloaded(how, _models.hugging_face("llama"), tmp_path)
    assert any(p.is_meta for p in model.parameters())
    parts: dict[str, Any] = {"exclude_tokens": [int(tokens[0, 0])]}
    site, expected = Site(model, "model.layers.1.mlp", **parts), Site(plain, "model.layers.1.mlp", **parts)
    dictionary = SparseDistiller(site.d_in, site.d_out, 32, activation=TopK(4), decoder_norm=UnitNorm())
    assert site.device == CPU
    for given in (tokens, {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}):
        captured, reference = site.capture(given, neurons=True), expected.capture(given, neurons=True)
        assert torch.equal(captured.outputs, reference.outputs)
        assert torch.equal(captured.neurons, reference.neurons)
        assert torch.equal(captured.mask, reference.mask)
    assert torch.equal(site.neurons.encoder, expected.neurons.encoder)
    with torch.no_grad():
        contexts: tuple[Callable[[Site], Any], ...] = (
            lambda place: place.replaced(dictionary),
            lambda place: place.replaced(place.neurons, error_term=True),
            lambda place: place.ablated(),
        )
        for context in contexts:
            with context(site), context(expected):
                assert torch.equal(site.logits(tokens), expected.logits(tokens))
    batch = next(iter(ActivationStream(site, tokens, batch_size=4)))
    assert batch.outputs.device == CPU
    # The unembedding, the final norm and the tokens of a loss over the rest of the model.
    effects = [token_effects(own, dictionary, k=3) for own in (site, expected)]
    assert torch.equal(effects[0].promoted_logits, effects[1].promoted_logits)
    options: dict[str, Any] = {"activation": TopK(4), "decoder_norm": UnitNorm()}
    trained: list[SparseDistiller] = []
    for own in (site, expected):
        generator = torch.Generator().manual_seed(0)
        trained.append(SparseDistiller(site.d_in, site.d_out, 8, generator=generator, **options))
        data = ActivationStream(own, tokens, batch_size=8)
        fit(trained[-1], data, n_tokens=16, loss=EndToEnd(own, tokens, n_sequences=1), progress=False)
    assert torch.equal(trained[0].decoder, trained[1].decoder)


def test_a_model_without_weights_in_memory_raises() -> None:
    model = _models.Plain().to("meta")
    with pytest.raises(ValueError, match="`model` must have its weights in memory, got a Plain on the meta device"):
        Site(model, "mlp").capture(_models.tokens())
