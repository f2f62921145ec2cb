"""Cross-layer transcoders of other libraries: equal outputs, written files, and errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import sparsedict as sd
from formats._fixtures import assert_equals_the_library, cases, copied, location, read_tensors, write_tensors
from sparsedict.formats import circuit_tracer, gemma_scope
from sparsedict.storage import StorageError

TRACER, GEMMA, LLAMASCOPIUM = "circuit_tracer_clt", "gemma_scope_clt", "llamascopium"
HOOKS: dict[str, Any] = {"model": "gpt2", "input_hook": "mlp.hook_in", "output_hook": "mlp.hook_out"}
LAYERS = {"0": 6, "1": 6, "2": 6}


def made(layers: Any = LAYERS, n_latents: Any = 12, **options: Any) -> sd.CrossLayerDistiller:
    """Returns a dictionary with random weights and different scales for each layer."""
    generator = torch.Generator().manual_seed(3)
    options = {"activation": sd.ReLU(), "decoder_norm": sd.Free(), "dtype": torch.float64, **options}
    dictionary = sd.CrossLayerDistiller(layers, n_latents, **options)
    with torch.no_grad():
        for name, weight in dictionary.named_parameters():
            if "threshold" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * 0.5)
        dictionary.input_scale.copy_(torch.rand(len(dictionary.layers), generator=generator) + 0.5)
        dictionary.output_scale.copy_(torch.rand(len(dictionary.layers), generator=generator) + 0.5)
    return dictionary


def set_thresholds_(dictionary: sd.CrossLayerDistiller) -> None:
    for index, buffer in enumerate(dictionary.activation_state.buffers()):
        buffer.fill_(0.2 + 0.1 * index)


def tokens(dictionary: sd.Dictionary) -> torch.Tensor:
    return torch.randn(9, dictionary.d_in, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize("case", cases(TRACER))
def test_outputs_equal_those_of_circuit_tracer(case: str) -> None:
    for path in (location(TRACER, case), location(TRACER, case) / "config.yaml"):
        dictionary = sd.load(path)
        assert isinstance(dictionary, sd.CrossLayerDistiller)
        assert_equals_the_library(dictionary, TRACER, case)
    assert [layer.name for layer in dictionary.layers] == ["0", "1", "2"]
    assert dictionary.trained_on["model"] == "tiny-stories"
    assert isinstance(dictionary.activation, sd.JumpReLU if case == "jump_relu" else sd.ReLU)


@pytest.mark.parametrize("case", cases(LLAMASCOPIUM))
def test_outputs_equal_those_of_llamascopium(case: str, tmp_path: Path) -> None:
    folder = location(LLAMASCOPIUM, case)
    for path in (folder, folder / "config.json", folder / "sae_weights.safetensors"):
        dictionary = sd.load(path)
        assert isinstance(dictionary, sd.CrossLayerDistiller)
        assert_equals_the_library(dictionary, LLAMASCOPIUM, case)
    expected: dict[str, sd.Activation] = {
        "jumprelu": sd.JumpReLU(),
        "relu": sd.ReLU(),
        "topk": sd.PerLayer(sd.TopK(3), (12, 12, 12)),
        "layertopk": sd.TopK(7),
    }
    assert dictionary.activation == expected[case]
    dictionary.save(tmp_path / "own")
    assert_equals_the_library(sd.load(tmp_path / "own"), LLAMASCOPIUM, case)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sae_type": "crosscoder"}, "`sae_type` must be 'clt'"),
        ({"act_fn": "batchtopk"}, "`act_fn` must be relu, jumprelu, topk or layertopk.*Convert it to JumpReLU"),
        ({"act_fn": "topk", "top_k": 100}, "`k` must be at most `n_latents`|also contains"),
        ({"act_fn": "relu"}, "also contains 'activation_function.log_jumprelu_threshold'"),
        ({"norm_activation": "token-wise"}, "`norm_activation` must be dataset-wise or inference, got 'token-wise'"),
        ({"hook_points_in": ["a"]}, "must have as many entries"),
        ({"hook_points_in": "a"}, "`hook_points_in` must be a list"),
        ({"hook_points_in": ["a", "b", "c"]}, "_norm.a` must be a positive number, got None"),
        ({"hook_points_in": ["a"] * 2, "hook_points_out": ["b"] * 2, "norm_activation": "inference"}, "`W_E`"),
        ({"sparsity_include_decoder_norm": "yes"}, "must be true or false"),
        ({"d_model": 0}, "`d_model` must be an integer of at least 1"),
    ],
)  # fmt: skip
def test_unsupported_files_of_llamascopium_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = copied(LLAMASCOPIUM, "jumprelu", tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with pytest.raises(StorageError, match=message):
        sd.load(folder)


def test_no_configuration_is_needed(tmp_path: Path) -> None:
    folder = copied(TRACER, "jump_relu", tmp_path)
    (folder / "config.yaml").unlink()
    assert_equals_the_library(sd.load(folder), TRACER, "jump_relu")


@pytest.mark.parametrize("case", cases(TRACER))
def test_written_files_have_the_layout_of_circuit_tracer(case: str, tmp_path: Path) -> None:
    circuit_tracer.write(circuit_tracer.read(location(TRACER, case)), tmp_path)
    names = sorted(file.name for file in location(TRACER, case).iterdir())
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name in names:
        if name != "config.yaml":
            theirs, ours = (read_tensors(folder / name) for folder in (location(TRACER, case), tmp_path))
            assert ours.keys() == theirs.keys()
            for key, tensor in theirs.items():
                torch.testing.assert_close(ours[key], tensor, rtol=1e-6, atol=1e-6)
    configs = [yaml.safe_load((f / "config.yaml").read_text()) for f in (location(TRACER, case), tmp_path)]
    assert configs[0] == configs[1]


LAYOUTS = [sd.LaterLayers(), sd.NextLayers(1), sd.NextLayers(0), sd.TiedDecoders(), sd.TiedDecoders(sd.NextLayers(1))]
ACTIVATIONS = [sd.ReLU(), sd.JumpReLU(0.3), sd.BatchTopK(4), sd.PerLayer(sd.BatchTopK(3))]


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_written_files_compute_the_same(layout: Any, activation: Any, tmp_path: Path) -> None:
    dictionary = made(layout=layout, activation=activation)
    set_thresholds_(dictionary)
    before = {name: value.clone() for name, value in dictionary.state_dict().items()}
    circuit_tracer.write(dictionary, tmp_path, **HOOKS)
    again, x = sd.load(tmp_path), tokens(dictionary)
    torch.testing.assert_close(again(x).latents, dictionary(x).latents)
    torch.testing.assert_close(again(x).reconstruction, dictionary(x).reconstruction)
    assert 0 < int((again(x).latents != 0).sum()) < again(x).latents.numel()
    for name, value in dictionary.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_read_transcoder_is_saved_and_trained_like_any_other(tmp_path: Path) -> None:
    dictionary = sd.load(location(TRACER, "jump_relu"))
    dictionary.save(tmp_path / "ours")
    again = sd.load(tmp_path / "ours")
    assert_equals_the_library(again, TRACER, "jump_relu")
    data = {f"{layer}.{role}": torch.randn(64, 6) for layer in range(3) for role in ("inputs", "outputs")}
    sd.fit(again, sd.Activations(data), n_tokens=128, batch_size=32, lr=1e-2, progress=False)
    assert not torch.equal(again.state_dict()["decoder_0"], dictionary.state_dict()["decoder_0"])
    assert all(weight.isfinite().all() for weight in again.parameters())


def test_types_are_those_of_the_file_or_the_argument(tmp_path: Path) -> None:
    folder = copied(TRACER, "relu", tmp_path)
    for file in folder.glob("*.safetensors"):
        write_tensors(file, {name: tensor.bfloat16() for name, tensor in read_tensors(file).items()})
    assert {weight.dtype for weight in sd.load(folder).parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in sd.load(folder, dtype=torch.float64).parameters()} == {torch.float64}


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"activation": sd.TopK(4)}, r"activation TopK\(k=4.*only ReLU, JumpReLU.*calibrate_threshold"),
    ({"activation": sd.PerLayer(sd.TopK(4))}, r"activation PerLayer\(.*TopK.*calibrate_threshold"),
    ({"activation": sd.AbsTopK(4)}, r"activation AbsTopK\(k=4.*only ReLU, JumpReLU"),
    ({"activation": sd.BatchTopK(4)}, "must have a measured threshold"),
    ({"skip": True}, r"has linear skips, .*Train with `skip=False`"),
    ({"n_latents": (12, 10, 12)}, r"has 12, 10, 12 latents in its layers, .*only equal numbers"),
    ({"layers": {"0": 6, "1": (6, 5), "2": 6}}, r"layer '1' with widths d_in=6 and d_out=5"),
    ({"layers": {"0": 6, "1": 8}}, r"layer '1' with widths d_in=8 and d_out=8.* the width of the first layer, 6"),
    ({"layers": {"1": 6, "3": 6}}, r"layers of the model from 0 in their order, .* got layers 1, 3\."),
]


@pytest.mark.parametrize(("options", "message"), UNSUPPORTED)
def test_unsupported_options_of_circuit_tracer_raise_before_a_file_is_written(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        circuit_tracer.write(made(**options), tmp_path / "new", **HOOKS)
    assert not (tmp_path / "new").exists()


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    dictionary = made()
    with torch.no_grad():
        dictionary.get_parameter("decoder_1")[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"Layer '1' of `dictionary` must have finite weights, .* of `decoder`"):
        circuit_tracer.write(dictionary, tmp_path / "new", **HOOKS)
    assert not (tmp_path / "new").exists()


def test_skips_of_zero_are_written(tmp_path: Path) -> None:
    dictionary = made(skip=True)
    with torch.no_grad():
        for skip in dictionary.skips:
            skip.zero_()
    circuit_tracer.write(dictionary, tmp_path, **HOOKS)
    x = tokens(dictionary)
    torch.testing.assert_close(sd.load(tmp_path)(x).reconstruction, dictionary(x).reconstruction)


def test_hooks_and_model_follow_from_the_sites(tmp_path: Path) -> None:
    dictionary = made()
    sites = [f"transformer.h.{layer}.mlp" for layer in range(3)]
    dictionary.trained_on = {"model": ["gpt2"] * 3, "model_class": ["GPT2LMHeadModel"] * 3, "site": sites}
    circuit_tracer.write(dictionary, tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {
        "model_kind": "cross_layer_transcoder",
        "model_name": "gpt2",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
    }
    dictionary.trained_on["site"] = [sites[0], sites[2], sites[1]]
    with pytest.raises(ValueError, match=r"layers of the model from 0 .* got layers 0, 2, 1\. Train it on all MLPs"):
        circuit_tracer.write(dictionary, tmp_path / "new")


def test_unknown_hooks_give_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"has no `model`, `input_hook`, `output_hook`"):
        circuit_tracer.write(made(), tmp_path)


def test_other_transcoders_in_the_folder_are_not_mixed_in(tmp_path: Path) -> None:
    circuit_tracer.write(made(), tmp_path / "three", **HOOKS)
    circuit_tracer.write(made(), tmp_path / "three", **HOOKS)  # It replaces the earlier one.
    with pytest.raises(ValueError, match=r"contains 'W_dec_2\.safetensors', 'W_enc_2.*has 3 layers.*another folder"):
        circuit_tracer.write(made({"0": 6, "1": 6}), tmp_path / "three", **HOOKS)
    with pytest.raises(ValueError, match=r"config\.yaml isn't of a cross_layer_transcoder"):
        circuit_tracer.write(made(), copied("circuit_tracer", "relu", tmp_path), **HOOKS)
    (tmp_path / "relu" / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"contains 'layer_0\.safetensors'\. Write to another folder"):
        circuit_tracer.write(made(), tmp_path / "relu", **HOOKS)
    student = sd.SparseDistiller(6, 6, 12, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"cross-layer transcoder.*another folder"):
        circuit_tracer.write(student, tmp_path / "three", **HOOKS)


def test_a_layer_alone_is_not_read(tmp_path: Path) -> None:
    folder = location(TRACER, "relu")
    with pytest.raises(ValueError, match="`layer` must be left out for the cross-layer transcoder"):
        circuit_tracer.read(folder, layer=1)
    with pytest.raises(ValueError, match="`layer` must be left out for a CrossLayerDistiller"):
        circuit_tracer.write(made(), tmp_path, layer=1, **HOOKS)
    with pytest.raises(StorageError, match=r"isn't a set of transcoders\. Read it with `sd.*\.read"):
        circuit_tracer.read_set(folder)
    for name in ("W_enc_0.safetensors", "W_dec_1.safetensors"):
        with pytest.raises(StorageError, match=rf"{name} is one file of a cross-layer transcoder.*Read the folder: "):
            sd.load(folder / name)
    (tmp_path / "layer_0.safetensors").write_bytes((folder / "W_enc_0.safetensors").read_bytes())
    with pytest.raises(StorageError, match=r"layer_0\.safetensors is one file of a cross-layer transcoder"):
        sd.load(tmp_path)


@pytest.mark.parametrize("name", ["W_enc_0", "W_enc_1", "W_dec_0", "W_dec_2"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    folder = copied(TRACER, "jump_relu", tmp_path)
    (folder / f"{name}.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}\.safetensors"):
        sd.load(folder)


def test_a_missing_last_layer_is_noticed(tmp_path: Path) -> None:
    folder = copied(TRACER, "jump_relu", tmp_path)
    for name in ("W_enc_2", "W_dec_2"):
        (folder / f"{name}.safetensors").unlink()
    with pytest.raises(StorageError, match=r"W_dec_0\.safetensors: `W_dec_0` must write to 2 layers, .* got 3\."):
        sd.load(folder)


@pytest.mark.parametrize("name", ["W_enc_1", "W_dec_0"])
def test_damaged_tensors_are_named_with_their_file(name: str, tmp_path: Path) -> None:
    folder = copied(TRACER, "jump_relu", tmp_path)
    file = folder / f"{name}.safetensors"
    tensors, whole = read_tensors(file), file.read_bytes()
    damaged = [{n: t for n, t in tensors.items() if n != left_out} for left_out in tensors]
    damaged += [tensors | {n: torch.cat([t, t])} for n, t in tensors.items()]
    damaged += [tensors | {n: t[None, None]} for n, t in tensors.items()]
    damaged += [tensors | {n: t[:0]} for n, t in tensors.items()]
    damaged += [tensors | {n: t.long()} for n, t in tensors.items()]
    damaged.append(tensors | {"W_skip_1": torch.zeros(6, 6)})
    for one in damaged:
        write_tensors(file, one)
        with pytest.raises(StorageError) as caught:
            sd.load(folder)
        assert file.name in str(caught.value)
    for cut in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(StorageError) as caught:
            sd.load(folder)
        assert file.name in str(caught.value)


def test_nan_negative_thresholds_and_layers_that_differ_are_named(tmp_path: Path) -> None:
    folder = copied(TRACER, "jump_relu", tmp_path)
    file = folder / "W_enc_1.safetensors"
    tensors = {name: tensor.clone() for name, tensor in read_tensors(file).items()}  # the file is overwritten
    bad = tensors["W_enc_1"].clone()
    bad[3, 2] = torch.nan
    for changed, message in (
        ({"W_enc_1": bad}, r"W_enc_1\.safetensors must have finite weights, but 1 of 72 entries of `W_enc_1`"),
        ({"threshold_1": tensors["threshold_1"] - 5}, r"W_enc_1\.safetensors: thresholds must not be negative"),
        ({"threshold_1": tensors["threshold_1"] * torch.nan}, "of `activation_state.log_threshold`"),
    ):
        write_tensors(file, tensors | changed)
        with pytest.raises(StorageError, match=message):
            sd.load(folder)
    rows = copied(TRACER, "relu", tmp_path) / "W_dec_1.safetensors"
    decoder = read_tensors(rows)["W_dec_1"]
    decoder[0, 1, 2] = torch.inf
    write_tensors(rows, {"W_dec_1": decoder})
    with pytest.raises(StorageError, match=r"W_dec_1\.safetensors must have finite weights, .* of `W_dec_1`"):
        sd.load(tmp_path / "relu")
    del tensors["threshold_1"]
    write_tensors(file, tensors)
    with pytest.raises(StorageError, match=r"W_enc_1\.safetensors must have a threshold .*: W_enc_0\.safetensors has"):
        sd.load(folder)


def test_layers_of_other_widths_are_named(tmp_path: Path) -> None:
    folder = copied(TRACER, "relu", tmp_path)
    named = {"W_enc_1": torch.zeros(12, 8), "b_enc_1": torch.zeros(12), "b_dec_1": torch.zeros(8)}
    write_tensors(folder / "W_enc_1.safetensors", named)
    write_tensors(folder / "W_dec_1.safetensors", {"W_dec_1": torch.zeros(12, 2, 8)})
    with pytest.raises(StorageError, match=r"W_enc_1\.safetensors must have the width 6 of the first layer, .* got 8"):
        sd.load(folder)


def test_other_kinds_in_the_configuration_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_kind: crosscoder\n")
    with pytest.raises(StorageError, match=r"must be transcoder_set or cross_layer_transcoder, got 'crosscoder'"):
        sd.load(tmp_path)


@pytest.mark.parametrize("case", cases(GEMMA))
def test_gemma_scope_is_read_with_all_layers(case: str) -> None:
    dictionary = sd.load(location(GEMMA, case))
    assert isinstance(dictionary, sd.CrossLayerDistiller)
    assert len(dictionary.layers) == 3
    assert dictionary.has_skip == (case == "affine")
    assert_equals_the_library(dictionary, GEMMA, case)


def test_skips_of_gemma_scope_are_transposed() -> None:
    dictionary = gemma_scope.read(location(GEMMA, "affine"))
    for layer in range(3):
        tensors = read_tensors(location(GEMMA, "affine") / f"params_layer_{layer}.safetensors")
        assert torch.equal(dictionary.state_dict()[f"skip_{layer}"], tensors["affine_skip_connection"].T)


def test_files_of_gemma_scope_in_a_configuration_of_circuit_tracer(tmp_path: Path) -> None:
    folder = copied(GEMMA, "affine", tmp_path)
    names = [f"params_layer_{layer}.safetensors" for layer in range(3)]
    document = {"model_kind": "cross_layer_transcoder", "model_name": "google/gemma-3-1b-pt", "transcoders": names}
    (folder / "config.yaml").write_text(yaml.safe_dump(document))
    dictionary = circuit_tracer.read(folder)
    assert_equals_the_library(dictionary, GEMMA, "affine")
    assert_equals_the_library(sd.load(folder), GEMMA, "affine")
    assert dictionary.trained_on["model"] == "google/gemma-3-1b-pt"


def test_a_transcoder_of_gemma_scope_is_written_for_circuit_tracer(tmp_path: Path) -> None:
    circuit_tracer.write(sd.load(location(GEMMA, "plain")), tmp_path, **HOOKS)
    assert_equals_the_library(sd.load(tmp_path), GEMMA, "plain")


def test_decoder_weights_for_earlier_layers_give_a_warning(tmp_path: Path) -> None:
    folder = copied(GEMMA, "plain", tmp_path)
    file = folder / "params_layer_2.safetensors"
    tensors = read_tensors(file)
    tensors["w_dec"][:, :2] = 0.01
    write_tensors(file, tensors)
    with pytest.warns(UserWarning, match=r"for layers before .* up to 0\.02\d? of the norm .* left out"):
        dictionary = sd.load(folder)
    assert_equals_the_library(dictionary, GEMMA, "plain")


def test_a_file_of_gemma_scope_alone_and_a_missing_one_are_named(tmp_path: Path) -> None:
    folder = copied(GEMMA, "plain", tmp_path)
    with pytest.raises(StorageError, match=r"params_layer_1\.safetensors is one layer of a cross-layer"):
        sd.load(folder / "params_layer_1.safetensors")
    with pytest.raises(ValueError, match="`kind` must be 'distiller' or None"):
        gemma_scope.read(folder, kind="autoencoder")
    (folder / "params_layer_1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"params_layer_1\.safetensors is missing"):
        sd.load(folder)
    (folder / "params_layer_2.safetensors").unlink()
    with pytest.raises(StorageError, match=r"layer_0\.safetensors: `w_dec` must write to 1 layers, .* got 3"):
        sd.load(folder)


def test_crosscoders_of_gemma_scope_are_an_error(tmp_path: Path) -> None:
    folder = copied(GEMMA, "plain", tmp_path / "crosscoder")
    with pytest.raises(StorageError, match=r"belongs to a crosscoder, .* aren't supported yet"):
        sd.load(folder)
    folder = copied(GEMMA, "plain", tmp_path / "other")
    points = {"hf_hook_point_in": "model.layers.3.output", "hf_hook_point_out": "model.layers.3.output"}
    (folder / "config.json").write_text(json.dumps(points))
    with pytest.raises(StorageError, match="belongs to a crosscoder"):
        sd.load(folder)
    points = {
        "hf_hook_point_in": "model.layers.3.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.3.post_feedforward_layernorm.output",
        "model_name": "gemma-3-1b",
    }
    (folder / "config.json").write_text(json.dumps(points))
    assert sd.load(folder).trained_on["model"] == "gemma-3-1b"


def test_damaged_tensors_of_gemma_scope_are_named_with_their_file(tmp_path: Path) -> None:
    folder = copied(GEMMA, "affine", tmp_path)
    file = folder / "params_layer_1.safetensors"
    tensors = read_tensors(file)
    damaged = [{n: t for n, t in tensors.items() if n != left_out} for left_out in tensors]
    damaged += [tensors | {n: torch.cat([t, t])} for n, t in tensors.items()]
    damaged += [tensors | {n: t[None, None]} for n, t in tensors.items()]
    damaged += [tensors | {n: t[:0]} for n, t in tensors.items()]
    damaged += [tensors | {n: t.long()} for n, t in tensors.items()]
    damaged += [tensors | {n: t * torch.nan} for n, t in tensors.items() if n != "threshold"]
    damaged.append(tensors | {"left_over": torch.zeros(6, 6)})
    for one in damaged:
        write_tensors(file, one)
        with pytest.raises(StorageError) as caught:
            sd.load(folder)
        assert file.name in str(caught.value)


def test_the_configuration_of_another_tool_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("wandb: 1\n")
    with pytest.raises(ValueError, match=r"config\.yaml isn't of a cross_layer_transcoder\. Write to another folder"):
        circuit_tracer.write(made(), tmp_path, **HOOKS)
    assert (tmp_path / "config.yaml").read_text() == "wandb: 1\n"
