"""circuit-tracer: sets of layers, transposed decoders, and written files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import cases
import sparsedict as sd
from formats._fixtures import assert_equals_the_library, copied, location, read_tensors, write_tensors
from sparsedict.formats import circuit_tracer
from sparsedict.storage import StorageError

SET = location("circuit_tracer", "two_layers")


def test_a_set_is_read_layer_by_layer() -> None:
    for layer in (0, 1):
        for dictionary in (circuit_tracer.read(SET, layer=layer), sd.load(SET / f"layer_{layer}.safetensors")):
            assert_equals_the_library(dictionary, "circuit_tracer", f"two_layers.{layer}")
            assert dictionary.trained_on["layer"] == layer
    whole = circuit_tracer.read_set(SET)
    assert sorted(whole) == [0, 1]
    with pytest.raises(
        FileNotFoundError, match=r"contains 2 layers. Choose one of them, .*layer=0.*layer_0\.safetensors"
    ):
        sd.load(SET)
    with pytest.raises(FileNotFoundError, match="`layer` must be one of the layers 0, 1"):
        circuit_tracer.read(SET, layer=7)


@pytest.mark.parametrize("names", [("W_dec",), ("W_enc",), ("W_enc", "W_dec")])
def test_matrices_may_lie_either_way_round(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "jump_relu_skip", tmp_path)
    tensors = read_tensors(folder / "layer_0.safetensors")
    write_tensors(folder / "layer_0.safetensors", tensors | {name: tensors[name].T for name in names})
    assert_equals_the_library(sd.load(folder), "circuit_tracer", "jump_relu_skip")


def test_one_threshold_may_apply_to_all_latents(tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "jump_relu", tmp_path)
    tensors = read_tensors(folder / "layer_0.safetensors")
    for threshold in (torch.tensor(0.4), torch.tensor([0.4])):
        write_tensors(folder / "layer_0.safetensors", tensors | {"activation_function.threshold": threshold})
        latents = sd.load(folder).encode(torch.randn(20, 6))
        assert (latents[latents > 0] > 0.4).all()


def test_negative_thresholds_let_negative_latents_pass_and_raise(tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "jump_relu", tmp_path)
    tensors = read_tensors(folder / "layer_0.safetensors")
    name = "activation_function.threshold"
    write_tensors(folder / "layer_0.safetensors", tensors | {name: tensors[name] - 0.5})
    with pytest.raises(StorageError, match="thresholds must not be negative"):
        sd.load(folder)


def test_no_configuration_is_needed(tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "skip", tmp_path)
    (folder / "config.yaml").unlink()
    assert_equals_the_library(sd.load(folder), "circuit_tracer", "skip")


def test_listed_files_are_found_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    config = yaml.safe_load((SET / "config.yaml").read_text())
    shutil.copy(SET / "layer_1.safetensors", folder / "first.safetensors")
    shutil.copy(location("gemma_scope", "second") / "params.safetensors", folder / "other.safetensors")
    shutil.copy(location("gemma_scope", "first") / "params.npz", folder / "params.npz")
    config["transcoders"] = ["first.safetensors", "other.safetensors", "params.npz", "hf://a/b/c.npz?revision=d"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FileNotFoundError, match=r"lists hf://a/b/c\.npz.*`sd\.load\(.hf://a/b/c\.npz@d.\)`"):
        circuit_tracer.read(folder, layer=0)
    config["transcoders"].pop()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    read = circuit_tracer.read_set(folder)
    for layer, made in enumerate(
        (("circuit_tracer", "two_layers.1"), ("gemma_scope", "second"), ("gemma_scope", "first"))
    ):
        assert_equals_the_library(read[layer], *made)
        assert isinstance(read[layer], sd.SparseDistiller)


def test_a_configured_top_k_needs_its_k(tmp_path: Path) -> None:
    folder = copied("circuit_tracer", "relu", tmp_path)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(f"{config}activation: topk\nk: 3\n")
    assert sd.load(folder).activation == sd.TopK(3)
    (folder / "config.yaml").write_text(f"{config}activation: topk\n")
    with pytest.raises(StorageError, match=r"config\.yaml: `k` must be an integer"):
        sd.load(folder)
    (folder / "config.yaml").write_text(f"{config}activation: jump_relu\n")
    with pytest.raises(StorageError, match=r"`activation` must be relu or topk .* got 'jumprelu'"):
        sd.load(folder)


@pytest.mark.parametrize("case", ["relu", "jump_relu", "skip", "jump_relu_skip"])
def test_written_files_have_the_library_s_layout(case: str, tmp_path: Path) -> None:
    circuit_tracer.write(sd.load(location("circuit_tracer", case)), tmp_path)
    theirs, ours = (read_tensors(f / "layer_0.safetensors") for f in (location("circuit_tracer", case), tmp_path))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-6)
    wanted, written = (
        yaml.safe_load((f / "config.yaml").read_text()) for f in (location("circuit_tracer", case), tmp_path)
    )
    assert written == wanted


def _square(dictionary: sd.SparseDistiller) -> sd.SparseDistiller:
    """Returns one that gives as many numbers as it reads."""
    arguments = dictionary.arguments() | {"d_out": 6}
    return sd.SparseDistiller(
        **arguments, activation=dictionary.activation, decoder_norm=sd.Free(), dtype=torch.float64
    )


HOOKS: dict[str, Any] = {"model": "gpt2", "input_hook": "mlp.hook_in", "output_hook": "mlp.hook_out"}


@pytest.mark.filterwarnings("ignore:The TopK of circuit-tracer keeps negative values")
@pytest.mark.parametrize(("kind", "activation"), cases.PLAIN_PAIRS)
def test_written_files_compute_the_same_or_writing_raises(kind: str, activation: str, tmp_path: Path) -> None:
    dictionary = cases.make(kind, activation)
    square = _square(dictionary) if isinstance(dictionary, sd.SparseDistiller) else dictionary
    for buffer in square.buffers():
        buffer.fill_(0.2)
    try:
        circuit_tracer.write({0: square, 1: square}, tmp_path, **HOOKS)
    except (TypeError, ValueError) as error:
        assert "circuit-tracer" in str(error)  # noqa: PT017
        assert not list(tmp_path.iterdir())
        return
    again = circuit_tracer.read(tmp_path, layer=1)
    x = cases.tokens(9)
    torch.testing.assert_close(again(x).latents, square(x).latents)
    torch.testing.assert_close(again(x).reconstruction, square(x).reconstruction)


def test_layers_are_added_one_by_one(tmp_path: Path) -> None:
    for layer in (0, 1):
        read = circuit_tracer.read(SET, layer=layer)
        circuit_tracer.write(read, tmp_path, layer=layer, model="gpt2", input_hook="ln2.hook_normalized")
    assert sorted(circuit_tracer.read_set(tmp_path)) == [0, 1]
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["model_name"] == "gpt2"


@pytest.mark.as_installed
@pytest.mark.as_installed
def test_layers_may_be_integers_of_any_type(tmp_path: Path) -> None:
    read = circuit_tracer.read_set(SET)
    hooks: dict[str, Any] = {"model": "gpt2", "input_hook": "mlp.hook_in", "output_hook": "mlp.hook_out"}
    circuit_tracer.write({np.int64(0): read[0], torch.tensor(1): read[1]}, tmp_path, **hooks)  # pyright: ignore[reportArgumentType]
    for layer, one in circuit_tracer.read_set(tmp_path).items():
        torch.testing.assert_close(one.encoder, read[layer].encoder)


def test_a_distiller_without_a_known_layer_never_replaces_another(tmp_path: Path) -> None:
    one = student()
    hooks: dict[str, Any] = {"model": "gpt2", "input_hook": "mlp.hook_in", "output_hook": "mlp.hook_out"}
    circuit_tracer.write(one, tmp_path, **hooks)
    with pytest.raises(ValueError, match=r"`layer` must be given .* contains layers 0\. Pass `layer=1` to add it"):
        circuit_tracer.write(student(), tmp_path, **hooks)
    torch.testing.assert_close(circuit_tracer.read(tmp_path).encoder, one.encoder)
    circuit_tracer.write(student(), tmp_path, layer=1, **hooks)
    assert circuit_tracer.read_set(tmp_path).keys() == {0, 1}


@pytest.mark.as_installed
@pytest.mark.parametrize("layers", [{}, {-1: 0}, {"a": 0}, {True: 0}, {0: 0, torch.tensor(0): 0}])
def test_layers_are_numbered(layers: dict, tmp_path: Path) -> None:
    dictionary = circuit_tracer.read(SET, layer=0)
    with pytest.raises(ValueError, match="by layer number, from 0"):
        circuit_tracer.write(dict.fromkeys(layers, dictionary), tmp_path)


def student(layer: int | None = None, **changes: Any) -> sd.SparseDistiller:
    """Returns a distiller that was trained at a layer of GPT-2."""
    arguments: dict[str, Any] = {"d_in": 6, "d_out": 6, "n_latents": 12, "activation": sd.ReLU()} | changes
    made = sd.SparseDistiller(**arguments, decoder_norm=sd.UnitNorm())
    if layer is not None:
        made.trained_on = {"model": "gpt2", "model_class": "GPT2LMHeadModel", "site": f"transformer.h.{layer}.mlp"}
    return made


def config(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_names_are_those_of_the_library(tmp_path: Path) -> None:
    circuit_tracer.write({0: student(0), 1: student(1)}, tmp_path)
    assert config(tmp_path) == {
        "model_name": "gpt2",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
    }
    assert circuit_tracer.read(tmp_path, layer=1).trained_on["site"] == "mlp.hook_in -> mlp.hook_out"


@pytest.mark.parametrize(
    ("site", "hooks"),
    [
        ("blocks.0.ln2.hook_normalized -> blocks.0.hook_mlp_out", ("ln2.hook_normalized", "hook_mlp_out")),
        ("blocks.0.mlp", ("mlp.hook_in", "mlp.hook_out")),
        ("transformer.h.0.ln_2:in -> transformer.h.0.mlp:out", ("hook_resid_mid", "mlp.hook_out")),
        (
            "model.layers.0.pre_feedforward_layernorm:out -> model.layers.0.post_feedforward_layernorm:out",
            ("mlp.hook_in", "hook_mlp_out"),
        ),
        ("model.decoder.layers.0.fc1:in -> model.decoder.layers.0.fc2:out", ("mlp.hook_in", "mlp.hook_out")),
        (
            "model.decoder.layers.0.final_layer_norm:out -> model.decoder.layers.0.fc2:out",
            ("mlp.hook_in", "mlp.hook_out"),
        ),
        ("blocks.0.mlp.in.hook_in -> blocks.0.hook_mlp_out", ("mlp.in.hook_in", "hook_mlp_out")),
    ],
)
def test_hooks_follow_from_the_site(site: str, hooks: tuple[str, str], tmp_path: Path) -> None:
    one = student(0)
    one.trained_on["site"] = site
    circuit_tracer.write(one, tmp_path)
    written = config(tmp_path)
    assert (written["feature_input_hook"], written["feature_output_hook"]) == hooks


def test_arguments_replace_the_settings_of_a_file(tmp_path: Path) -> None:
    read = circuit_tracer.read(SET, layer=0)
    circuit_tracer.write(read, tmp_path, model="other", input_hook="ln2.hook_normalized", output_hook="hook_mlp_out")
    written = config(tmp_path)
    assert written["model_name"] == "other"
    assert (written["feature_input_hook"], written["feature_output_hook"]) == ("ln2.hook_normalized", "hook_mlp_out")


def test_unknown_settings_are_omitted_with_a_warning(tmp_path: Path) -> None:
    one = student(0)
    one.trained_on |= {"model": "GPT2LMHeadModel", "site": "somewhere"}
    with pytest.warns(UserWarning, match=r"has no `model`, `input_hook`, `output_hook`.*input_hook='mlp\.hook_in'"):
        circuit_tracer.write(one, tmp_path)
    assert "model_name" not in config(tmp_path)


def test_the_layer_follows_from_the_site(tmp_path: Path) -> None:
    for layer in (0, 1):
        circuit_tracer.write(student(layer), tmp_path)
    assert sorted(circuit_tracer.read_set(tmp_path)) == [0, 1]
    with pytest.raises(
        ValueError,
        match=r"the distiller of layer 0 was trained at 'transformer\.h\.1\.mlp', layer 1",
    ):
        circuit_tracer.write(student(1), tmp_path / "other", layer=0)
    with pytest.raises(ValueError, match="`layer` must be left out if distillers are given by layer"):
        circuit_tracer.write({0: student(0)}, tmp_path / "other", layer=0)
    assert not (tmp_path / "other").exists()


UNUSABLE = [
    ({0: {}, 1: {"n_latents": 16}}, "the same n_latents in all layers, .* layer 0 has 12 and layer 1 has 16"),
    ({0: {}, 1: {"d_in": 8, "d_out": 8}}, "the same width .* layer 0 has 6 and layer 1 has 8"),
    ({0: {"skip": True}, 1: {}}, "the same skip connection .* layer 0 has True and layer 1 has False"),
    ({0: {"activation": sd.TopK(3)}, 1: {"activation": sd.TopK(4)}}, "the same k of TopK .* layer 0 has 3"),
    ({0: {"activation": sd.TopK(3)}, 1: {}}, "the same k of TopK .* layer 0 has 3 and layer 1 has None"),
    ({0: {}, 2: {}, 5: {}}, r"every layer from 0, .* got layers 0, 2, 5 without 1, 3, 4\."),
    ({1: {}}, r"every layer from 0, .* got layers 1 without 0\."),
]


@pytest.mark.parametrize(("layers", "message"), UNUSABLE)
def test_sets_that_the_library_can_t_use_raise(layers: dict[int, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        circuit_tracer.write({n: student(n, **changes) for n, changes in layers.items()}, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_layers_in_the_folder_count_too(tmp_path: Path) -> None:
    circuit_tracer.write({0: student(0), 1: student(1)}, tmp_path)
    with pytest.raises(
        ValueError, match=r"layer 0 has 12 and layer 2 has 16. Layers that are already in the folder count"
    ):
        circuit_tracer.write(student(2, n_latents=16), tmp_path)
    with pytest.raises(ValueError, match=r"`input_hook` must be 'mlp.hook_in', as in the layers"):
        circuit_tracer.write(student(2), tmp_path, input_hook="hook_resid_mid")
    # A whole set takes the place of the earlier one.
    changed = {n: student(n, n_latents=16) for n in (0, 1)}
    circuit_tracer.write(changed, tmp_path, input_hook="hook_resid_mid")
    assert circuit_tracer.read(tmp_path, layer=1).n_latents == 16


def test_no_layer_of_an_earlier_set_is_left_among_new_ones(tmp_path: Path) -> None:
    circuit_tracer.write({n: student(n) for n in range(3)}, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"must have every layer of the set .* Layers 1, 2 of the earlier set"):
        circuit_tracer.write({0: student(0)}, tmp_path)
    with pytest.raises(ValueError, match=r"must have every layer of the set .* Layers 0, 1 of the earlier set"):
        circuit_tracer.write({2: student(2), 3: student(3)}, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    # One layer may be replaced by name, and a set may grow.
    circuit_tracer.write(student(1), tmp_path)
    circuit_tracer.write({3: student(3), 4: student(4)}, tmp_path)
    assert sorted(circuit_tracer.read_set(tmp_path)) == [0, 1, 2, 3, 4]


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "`model` must be a string, got int"),
        ({"model": " "}, ValueError, "`model` must be the name of a model"),
        ({"input_hook": 3}, TypeError, "`input_hook` must be a string"),
        ({"input_hook": "transformer.h.0.mlp"}, ValueError, "hook within a block such as 'mlp.hook_in', got"),
        ({"output_hook": "blocks.0.mlp.hook_out"}, ValueError, "`output_hook` .* such as 'mlp.hook_out', got 'blocks"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        circuit_tracer.write(student(0), tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_hooks_must_agree(tmp_path: Path) -> None:
    other = student(1)
    other.trained_on["site"] = "blocks.1.ln2.hook_normalized -> blocks.1.mlp.hook_out"
    with pytest.raises(
        ValueError, match=r"read the same hook in all layers, .* got 'ln2\.hook_normalized', 'mlp\.hook_in'"
    ):
        circuit_tracer.write({0: student(0), 1: other}, tmp_path)


def test_top_k_is_written_with_its_k_and_without_a_tensor_of_it(tmp_path: Path) -> None:
    first = student(0, activation=sd.TopK(3))
    with pytest.warns(UserWarning, match="The TopK of circuit-tracer keeps negative values"):
        circuit_tracer.write(first, tmp_path)
    assert (config(tmp_path)["activation"], config(tmp_path)["k"]) == ("topk", 3)
    assert read_tensors(tmp_path / "layer_0.safetensors").keys() == {"W_enc", "W_dec", "b_enc", "b_dec"}
    again = sd.load(tmp_path)
    assert again.activation == sd.TopK(3)
    # What a file said of its activation isn't said of another.
    again.activation = sd.ReLU()
    circuit_tracer.write(again, tmp_path / "relu")
    assert not {"activation", "k"} & config(tmp_path / "relu").keys()


def test_an_activation_without_a_counterpart_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only ReLU, JumpReLU and TopK\. .*`sd\.calibrate_threshold\("):
        circuit_tracer.write(student(0, activation=sd.GroupMax(3)), tmp_path)
