from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

import cases
import sparsedict as sd


def change(folder: Path, **keys: object) -> None:
    file = folder / "dictionary.json"
    document = json.loads(file.read_text())
    for key, value in keys.items():
        holder = document["parts"] if key in document["parts"] else document
        holder[key] = holder[key] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(document))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    cases.make("distiller", "top_k").save(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(("kind", "activation"), cases.PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_dictionary_comes_back_bit_for_bit(
    kind: str, activation: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    norm = list(cases.NORMS)[len(kind + activation) % len(cases.NORMS)]
    saved = cases.make(kind, activation, norm, dtype=dtype).train()
    saved.trained_on = {"site": "blocks.1.mlp", "n_tokens": 10**9, "lr": 0.1}
    saved.save(tmp_path)
    loaded = sd.load(tmp_path)
    assert type(loaded) is type(saved)
    assert loaded.arguments() == saved.arguments()
    assert (loaded.activation, loaded.decoder_norm) == (saved.activation, saved.decoder_norm)
    assert (loaded.reads, loaded.writes) == (saved.reads, saved.writes)
    assert loaded.trained_on == saved.trained_on
    assert not loaded.training
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, weight in saved.state_dict().items():
        read = loaded.state_dict()[name]
        assert read.dtype == weight.dtype
        assert torch.equal(read.view(torch.uint8), weight.view(torch.uint8)) if weight.ndim else read == weight, name
    trained = [name for name, _ in saved.named_parameters() if _.requires_grad]
    assert [name for name, _ in loaded.named_parameters() if _.requires_grad] == trained
    x = cases.tokens(5, dtype=dtype)
    assert torch.equal(loaded(x).reconstruction, saved.eval()(x).reconstruction)


def test_a_threshold_not_measured_yet_is_still_missing_afterwards(tmp_path: Path) -> None:
    new = sd.SparseAutoencoder(4, 8, activation=sd.BatchTopK(2), decoder_norm=sd.UnitNorm())
    new.save(tmp_path)
    with pytest.raises(RuntimeError, match="The threshold of BatchTopK must be measured"):
        sd.load(tmp_path).encode(torch.zeros(1, 4))


def test_a_loaded_dictionary_trains_and_stands_alone(saved: Path) -> None:
    loaded = sd.load(saved).train()
    out = loaded.forward_pass(cases.tokens(9), torch.ones(9, cases.D_OUT, dtype=torch.float64))
    sd.SquaredError()(out).backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    changed = copy.deepcopy(loaded)
    changed.save(saved)
    again = sd.load(saved)
    assert torch.equal(again.encoder, loaded.encoder)
    assert not torch.equal(again.encoder, cases.make("distiller", "top_k").encoder)


def test_weights_are_converted_on_request(saved: Path) -> None:
    loaded = sd.load(str(saved), dtype=torch.float32, device="cpu")
    assert {weight.dtype for weight in loaded.state_dict().values()} == {torch.float32}
    meta = sd.load(saved).to("meta")
    assert meta.encoder.is_meta


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    sd.load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_again_replaces_the_first(saved: Path) -> None:
    cases.make("autoencoder", "gelu").save(saved)
    assert isinstance(sd.load(saved), sd.SparseAutoencoder)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": {"name": "Transcoder"}}, "kind 'Transcoder' isn't a class of sparsedict: Cross.*, Sparse"),
        ({"kind": {"name": "Dictionary"}}, "kind 'Dictionary' isn't a class of sparsedict"),
        ({"activation": {"name": "UnitNorm"}}, "activation 'UnitNorm' isn't a class of sparsedict: .*BatchTopK, GELU"),
        ({"activation": {"name": "torch"}}, "activation 'torch' isn't a class of sparsedict"),
        (
            {"activation": {"name": "system", "package": "os"}},
            r"the activation is 'system' from 'os', which isn't part of sparsedict. Pass the class: .*parts=\[system\]",
        ),
        ({"activation": {"arguments": {}}}, r"TopK doesn't accept the arguments \{\}"),
        ({"activation": {"arguments": {"k": 2, "j": 1}}}, "TopK doesn't accept the arguments .* unexpected keyword"),
        ({"activation": {"arguments": {"k": -1}}}, "`k` must be at least 1, got -1"),
        ({"activation": {"arguments": {"k": 13}}}, "`k` must be at most `n_latents`, got k=13"),
        ({"kind": {"arguments": {"d_in": 6, "d_out": 5, "n_latents": 10**12}}}, "`n_latents` is 1000000000000"),
        (
            {"kind": {"arguments": {"d_in": 6, "d_out": 5, "n_latents": 12, "device": "cuda"}}},
            "must not set the arguments device",
        ),
        ({"widths": {"n_latents": 10**12}}, r"`encoder` must be of shape \(1000000000000, 6\), but it is of shape"),
        ({"widths": {"d_out": 6}}, r"`decoder` must be of shape \(12, 6\)"),
        ({"format_version": 9}, r"format version 9, written by sparsedict 0\.1\.0.* Upgrade"),
    ],
)
@pytest.mark.as_installed
def test_parts_that_cannot_be_constructed_are_named(saved: Path, keys: dict[str, object], message: str) -> None:
    change(saved, **keys)
    with pytest.raises(ValueError, match=message) as caught:
        sd.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("part", "message"),
    [("TopK", "must contain classes.*got 'TopK'"), (dict, "kinds of dictionaries or parts .*, got dict")],
)
def test_parts_must_be_classes_of_parts(saved: Path, part: object, message: str) -> None:
    with pytest.raises(TypeError, match=f"`parts` must contain .*{message}|`parts` {message}"):
        sd.load(saved, parts=[part])
