"""SAELens: configurations of all versions, and written files."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import cases
import sparsedict as sd
from formats._fixtures import assert_equals_the_library, copied, location, read_tensors, write_tensors
from sparsedict.formats import sae_lens
from sparsedict.storage import StorageError

WEIGHTS = "sae_weights.safetensors"


def changed(folder: Path, **keys: Any) -> Path:
    """Changes keys of a configuration; ``...`` removes one."""
    file = folder / "cfg.json"
    cfg = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({name: value for name, value in cfg.items() if value is not ...}))
    return folder


OLD = [
    {"hook_point": ..., "hook_name": "blocks.1.hook_resid_pre"},
    {"dtype": "float32", "device": "cuda:0"},
    {"dtype": ..., "d_in": ..., "d_sae": ...},
    {"architecture": "standard", "activation_fn": "relu", "activation_fn_kwargs": {}},
    {"architecture": None, "activation_fn_str": "ReLU", "normalize_activations": None},
    {"apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "sae_lens_training_version": None},
    {"sae_lens_version": "5.9.1", "reshape_activations": "none", "prepend_bos": True},
]


@pytest.mark.parametrize("keys", OLD, ids=str)
def test_old_configurations_say_the_same_in_many_ways(keys: dict[str, Any], tmp_path: Path) -> None:
    folder = changed(copied("sae_lens", "old_standard", tmp_path), **keys)
    assert_equals_the_library(sd.load(folder), "sae_lens", "old_standard")


@pytest.mark.parametrize(
    "keys",
    [
        {"activation_fn_str": ..., "activation_fn": "topk"},
        {"activation_fn_str": ..., "activation_fn_kwargs": ..., "architecture": "topk", "k": 3},
        {"k": 3.0},
        {"architecture": ...},
    ],
    ids=str,
)
def test_k_stands_in_several_places(keys: dict[str, Any], tmp_path: Path) -> None:
    folder = changed(copied("sae_lens", "old_topk", tmp_path), **keys)
    assert_equals_the_library(sd.load(folder), "sae_lens", "old_topk")


def test_a_logarithm_of_thresholds_is_its_exponential(tmp_path: Path) -> None:
    folder = copied("sae_lens", "old_jumprelu", tmp_path)
    tensors = read_tensors(folder / WEIGHTS)
    threshold = tensors.pop("threshold")
    write_tensors(folder / WEIGHTS, tensors | {"log_threshold": threshold.log()})
    assert_equals_the_library(sd.load(folder), "sae_lens", "old_jumprelu")


def test_negative_thresholds_are_zero_behind_the_relu(tmp_path: Path) -> None:
    folder = copied("sae_lens", "jumprelu", tmp_path)
    tensors = read_tensors(folder / WEIGHTS)
    write_tensors(folder / WEIGHTS, tensors | {"threshold": -tensors["threshold"]})
    dictionary = sd.load(folder)
    x = torch.randn(5, 6)
    torch.testing.assert_close(dictionary.encode(x), dictionary.pre_activations(x).relu())


def test_a_finetuned_factor_goes_into_decoder_rows(tmp_path: Path) -> None:
    folder = changed(copied("sae_lens", "old_scaling_factor", tmp_path), finetuning_scaling_factor=True)
    tensors = read_tensors(folder / WEIGHTS)
    plain = sd.load(folder)
    factor = torch.linspace(0.5, 2, 12)
    write_tensors(folder / WEIGHTS, tensors | {"scaling_factor": factor})
    scaled = sd.load(folder)
    torch.testing.assert_close(scaled.decoder, plain.decoder * factor[:, None])
    assert torch.equal(scaled.encoder, plain.encoder)
    with pytest.raises(StorageError, match="`scaling_factor` must be 1"):
        sd.load(changed(folder, finetuning_scaling_factor=False))


@pytest.mark.parametrize(
    ("value", "said"),
    [("expected_average_only_in", "mean norm"), (True, "mean norm"), ("covariance_whitening", "whitened")],
)
def test_normalisation_that_lies_outside_is_reported(value: object, said: str, tmp_path: Path) -> None:
    folder = changed(copied("sae_lens", "old_standard", tmp_path), normalize_activations=value)
    with pytest.warns(UserWarning, match=said):
        dictionary = sd.formats.sae_lens.read(folder)
    assert_equals_the_library(dictionary, "sae_lens", "old_standard")


def test_a_training_checkpoint_of_batch_top_k_has_its_threshold(tmp_path: Path) -> None:
    folder = copied("sae_lens", "trained_batchtopk", tmp_path)
    tensors = read_tensors(folder / WEIGHTS)
    threshold = tensors.pop("threshold")
    write_tensors(folder / WEIGHTS, tensors | {"topk_threshold": threshold[0].double()})
    dictionary = sd.load(changed(folder, architecture="batchtopk", k=3.0, rescale_acts_by_decoder_norm=False))
    assert dictionary.activation == sd.BatchTopK(3)
    assert_equals_the_library(dictionary.float(), "sae_lens", "trained_batchtopk")
    write_tensors(folder / WEIGHTS, tensors)
    with pytest.raises(StorageError, match="must contain `topk_threshold`, the threshold of a batchtopk dictionary"):
        sd.load(folder)
    write_tensors(folder / WEIGHTS, tensors | {"topk_threshold": torch.tensor(1e300, dtype=torch.float64)})
    with pytest.raises(StorageError, match="`threshold` must be a number in the range of float32"):
        sd.load(folder)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "temporal"}, r"cfg\.json: `architecture` must be one of .*, got 'temporal'"),
        ({"architecture": 3}, r"cfg\.json: `architecture` must be one of"),
        ({"activation_fn_str": "tanh-relu"}, r"`activation_fn` must be relu or topk, got 'tanh-relu'"),
        ({"normalize_activations": "batch"}, r"`normalize_activations` must be one of .* got 'batch'"),
        ({"dtype": "int8"}, r"`dtype` must be one of .* got 'int8'"),
        ({"apply_b_dec_to_input": "yes"}, r"`apply_b_dec_to_input` must be true or false, got 'yes'"),
        ({"d_sae": 13}, r"`d_sae` must be 13 as in cfg\.json, got 12"),
        ({"architecture": "topk"}, r"cfg\.json: `k` must be an integer of at least 1, got 'None'"),
        ({"architecture": "topk", "k": 100}, r"`k` must be at most `n_latents`, got k=100 for 12"),
    ],
)
def test_unreadable_settings_are_named(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = changed(copied("sae_lens", "old_standard", tmp_path), **keys)
    with pytest.raises(StorageError, match=message):
        sd.load(folder)


def test_a_transcoder_subtracts_nothing(tmp_path: Path) -> None:
    folder = changed(copied("sae_lens", "transcoder", tmp_path), apply_b_dec_to_input=True)
    with pytest.raises(StorageError, match="`apply_b_dec_to_input` must be false for a transcoder"):
        sd.load(folder)


def test_half_precision_stays_where_it_is_exact() -> None:
    assert sd.load(location("sae_lens", "standard_bfloat16")).encoder.dtype == torch.bfloat16
    # The logarithm of a threshold, rounded to half precision, would be another threshold.
    assert sd.load(location("sae_lens", "jumprelu_bfloat16")).encoder.dtype == torch.float32
    asked = sd.load(location("sae_lens", "jumprelu_bfloat16"), dtype=torch.bfloat16)
    assert {weight.dtype for weight in asked.state_dict().values()} == {torch.bfloat16}


def test_the_metadata_of_the_configuration_is_preserved() -> None:
    trained_on = sd.load(location("sae_lens", "standard_hook_z")).trained_on
    assert trained_on["library"] == "SAELens"
    assert trained_on["model"] == "tiny-stories"
    assert trained_on["site"] == "blocks.1.attn.hook_z"
    assert trained_on["cfg"]["reshape_activations"] == "hook_z"


WRITTEN = {
    "standard": "standard",
    "standard_no_offset": "standard",
    "standard_layer_norm": "standard",
    "standard_constant_norm": "standard",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "abstopk": "abstopk",
    "transcoder": "transcoder",
    "transcoder_layer_norm": "transcoder",
    "skip_transcoder": "skip_transcoder",
    "jumprelu_transcoder": "jumprelu_transcoder",
    "jumprelu_skip_transcoder": "jumprelu_skip_transcoder",
}


def names(dictionary: sd.Dictionary) -> dict[str, Any]:
    """Returns the metadata that a dictionary without a history doesn't know."""
    if isinstance(dictionary, sd.SparseDistiller):
        return {"model_name": "gpt2", "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    return {"model_name": "gpt2", "hook_name": "blocks.1.hook_mlp_out"}


def metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cfg.json").read_text())["metadata"]


@pytest.mark.parametrize("case", WRITTEN)
def test_written_files_have_the_library_s_layout(case: str, tmp_path: Path) -> None:
    dictionary = sd.load(location("sae_lens", case))
    out: dict[str, Any] = (
        {"hook_name_out": "blocks.1.hook_mlp_out"} if isinstance(dictionary, sd.SparseDistiller) else {}
    )
    sae_lens.write(dictionary, tmp_path, **out)
    theirs = read_tensors(location("sae_lens", case) / WEIGHTS)
    ours = read_tensors(tmp_path / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-6)
    wanted = json.loads((location("sae_lens", case) / "cfg.json").read_text())
    written = json.loads((tmp_path / "cfg.json").read_text())
    ours_too, theirs_too = written.pop("metadata"), wanted.pop("metadata")
    assert written == wanted
    assert theirs_too.items() <= ours_too.items()


def test_thresholds_of_zero_are_written_as_such(tmp_path: Path) -> None:
    dictionary = sd.load(location("sae_lens", "jumprelu"))
    with torch.no_grad():
        dictionary.activation_state.get_parameter("log_threshold").fill_(-torch.inf)
    sae_lens.write(dictionary, tmp_path)
    assert not read_tensors(tmp_path / WEIGHTS)["threshold"].any()
    assert torch.equal(sd.load(tmp_path)(torch.ones(2, 6)).latents, dictionary(torch.ones(2, 6)).latents)


@pytest.mark.parametrize(("kind", "activation"), cases.PLAIN_PAIRS)
def test_written_files_compute_the_same_or_writing_raises(kind: str, activation: str, tmp_path: Path) -> None:
    dictionary = cases.make(kind, activation)
    try:
        sae_lens.write(dictionary, tmp_path, **names(dictionary))
    except ValueError as error:
        assert "SAELens supports only" in str(error)  # noqa: PT017
        assert not list(tmp_path.iterdir())
        return
    again = sd.load(tmp_path)
    x = cases.tokens(9)
    torch.testing.assert_close(again(x).latents, dictionary(x).latents)
    torch.testing.assert_close(again(x).reconstruction, dictionary(x).reconstruction)


def test_an_untrained_batch_top_k_can_t_be_written(tmp_path: Path) -> None:
    coder = sd.SparseAutoencoder(6, 12, activation=sd.BatchTopK(3), decoder_norm=sd.Free())
    with pytest.raises(ValueError, match="BatchTopK has none yet"):
        sae_lens.write(coder, tmp_path)


@pytest.mark.as_installed
def test_a_disk_that_takes_no_more_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("sparsedict.storage._weights.save_file", full)
    coder = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.Free())
    with pytest.raises(OSError, match=r"could not be written to .*No space left") as caught:
        sd.formats.sae_lens.write(coder, tmp_path, **names(coder))
    assert caught.value.errno == 28
    assert not list(tmp_path.iterdir())


def trained(reads: str, site: str, **facts: Any) -> sd.Dictionary:
    """Returns a dictionary that was trained at a site."""
    parts: dict[str, Any] = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm()}
    if reads == "distiller":
        made: sd.Dictionary = sd.SparseDistiller(4, 4, 8, **parts)
    else:
        made = sd.SparseAutoencoder(4, 8, reads=reads, **parts)  # pyright: ignore[reportArgumentType]
    made.trained_on = {"model": "gpt2", "model_class": "GPT2LMHeadModel", "site": site, "n_tokens": 10, **facts}
    return made


@pytest.mark.parametrize(
    ("reads", "site", "hook", "out"),
    [
        ("outputs", "transformer.h.1.mlp", "blocks.1.hook_mlp_out", None),
        ("inputs", "model.layers.7.mlp", "blocks.7.mlp.hook_in", None),
        ("neurons", "gpt_neox.layers.0.mlp", "blocks.0.mlp.hook_post", None),
        ("outputs", "transformer.h.1:out", "blocks.1.hook_resid_post", None),
        ("distiller", "transformer.h.1.mlp", "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"),
        (
            "distiller",
            "blocks.1.ln2.hook_normalized -> blocks.1.hook_mlp_out",
            "blocks.1.ln2.hook_normalized",
            "blocks.1.hook_mlp_out",
        ),
    ],
)
def test_the_place_is_written_as_a_hook(reads: str, site: str, hook: str, out: str | None, tmp_path: Path) -> None:
    # One of SAELens' two kinds of models has no such hook, and skips the dictionary.
    lacks = pytest.warns(
        UserWarning, match=r"HookedSAETransformer has no hook of this name.*'blocks\.\d\.ln2\.hook_normalized'"
    )
    with lacks if hook.endswith("mlp.hook_in") and "hook" not in site else nullcontext():
        sae_lens.write(trained(reads, site), tmp_path)
    written = metadata(tmp_path)
    assert (written["model_name"], written["hook_name"], written.get("hook_name_out")) == ("gpt2", hook, out)
    assert written["sparsedict"]["site"] == site
    unprocessed = {"fold_ln": False, "center_writing_weights": False, "center_unembed": False}
    assert written["model_from_pretrained_kwargs"] == ({} if "hook" in site else unprocessed)


def test_a_warning_names_each_hook_that_one_of_saelens_models_lacks(tmp_path: Path) -> None:
    gemma = trained("distiller", "model.layers.1.mlp", model="google/gemma-2-2b")
    with pytest.warns(UserWarning, match="HookedSAETransformer has no hook") as found:
        sae_lens.write(gemma, tmp_path)
    texts = [str(warning.message) for warning in found]
    assert any("`hook_name` is written as 'blocks.1.mlp.hook_in'" in text and "nearest" in text for text in texts)
    assert any("`hook_name_out` is written as 'blocks.1.mlp.hook_out'" in text for text in texts)
    with pytest.warns(UserWarning, match="`hook_name` is written as 'blocks.1.mlp.hook_out'"):
        sae_lens.write(trained("outputs", "model.layers.1.mlp", model="google/gemma-2-2b"), tmp_path / "output")


def test_arguments_replace_the_settings_of_a_file(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model_name": "other",
        "hook_name": "blocks.5.ln2.hook_normalized",
        "hook_name_out": "blocks.5.hook_mlp_out",
    }
    others = {"context_size": 64, "prepend_bos": False, "dataset_path": "owner/data"}
    sae_lens.write(trained("distiller", "transformer.h.1.mlp"), tmp_path, **given, metadata=others)
    assert (given | others).items() <= metadata(tmp_path).items()


@pytest.mark.parametrize("model", ["GPT2LMHeadModel", "MyNet", "/data/models/gpt2", "./gpt2", "the embedded model", ""])
def test_unknown_settings_are_omitted_with_a_warning(model: str, tmp_path: Path) -> None:
    dictionary = trained("outputs", "encoder.block.1.layer.1", model=model, model_class="MyNet")
    with pytest.warns(UserWarning, match=r"has no `model_name`, `hook_name`.*hook_name='blocks"):
        sae_lens.write(dictionary, tmp_path)
    assert not {"model_name", "hook_name"} & metadata(tmp_path).keys()
    assert metadata(tmp_path)["sparsedict"]["site"] == "encoder.block.1.layer.1"


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hook_name": "transformer.h.1.mlp"}, ValueError, "`hook_name` must be a TransformerLens hook"),
        ({"hook_name": "hook_mlp_out"}, ValueError, "such as 'blocks.1.hook_mlp_out', got 'hook_mlp_out'"),
        ({"hook_name": "mlp.hook_in"}, ValueError, "such as 'blocks.1.mlp.hook_in', got 'mlp.hook_in'"),
        ({"hook_name_out": "blocks.1.hook_mlp_out"}, ValueError, "`hook_name_out` must be left out"),
        ({"model_name": 3}, TypeError, "`model_name` must be a string"),
        ({"model_name": ""}, ValueError, "`model_name` must be the name of a model"),
        ({"metadata": {"hook_name": "transformer.h.1.mlp"}}, ValueError, "`hook_name` must be a TransformerLens hook"),
        ({"metadata": {"l0": object()}}, ValueError, "`metadata` must be serialisable as JSON: .*object"),
        ({"metadata": {"l0": float("nan")}}, ValueError, "`metadata` must be serialisable as JSON"),
        ({"metadata": 3}, TypeError, "`metadata` must be a dict, got int"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        sae_lens.write(trained("outputs", "transformer.h.1.mlp"), tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def measured(folder: Path) -> Path:
    """Adds what tools measure of a dictionary to its metadata."""
    file = folder / "cfg.json"
    cfg = json.loads(file.read_text())
    cfg["metadata"] |= {"l0": 71.5, "dead_latents": 5, "mse": 0.1, "dataset_path": "a/b", "context_size": 128}
    file.write_text(json.dumps(cfg))
    return folder


def test_measurements_of_a_file_are_not_written_back(tmp_path: Path) -> None:
    dictionary = sd.load(measured(copied("sae_lens", "standard", tmp_path)))
    sae_lens.write(dictionary, tmp_path / "same")
    kept = metadata(tmp_path / "same")
    assert (kept["model_name"], kept["dataset_path"], kept["context_size"]) == ("tiny-stories", "a/b", 128)
    sd.fit(dictionary, torch.randn(64, 6), n_tokens=64, batch_size=32, progress=False)
    sae_lens.write(dictionary, tmp_path / "trained")
    for written in (kept, metadata(tmp_path / "trained")):
        assert not {"l0", "dead_latents", "mse"} & written.keys()
        assert written["hook_name"] == "blocks.1.hook_resid_post"
    assert "dataset_path" not in metadata(tmp_path / "trained")


def test_frequencies_of_an_earlier_dictionary_are_named(tmp_path: Path) -> None:
    write_tensors(tmp_path / "sparsity.safetensors", {"sparsity": torch.zeros(12)})
    with pytest.warns(
        UserWarning, match=r"sparsity\.safetensors contains the firing frequencies of an earlier dictionary"
    ):
        sae_lens.write(trained("outputs", "transformer.h.1.mlp"), tmp_path)
    assert (tmp_path / "sparsity.safetensors").exists()


def test_another_place_replaces_that_of_the_file(tmp_path: Path) -> None:
    dictionary = sd.load(location("sae_lens", "standard"))
    dictionary.trained_on |= {"model": "gpt2", "architecture": "gpt2", "site": "transformer.h.3.mlp", "n_tokens": 5}
    sae_lens.write(dictionary, tmp_path)
    assert metadata(tmp_path)["model_name"] == "gpt2"
    assert metadata(tmp_path)["hook_name"] == "blocks.3.hook_mlp_out"


@pytest.mark.parametrize("activation", [sd.TopK(3), sd.AbsTopK(3)])
def test_unit_rows_let_dashboards_fold_them(activation: sd.Activation, tmp_path: Path) -> None:
    coder = sd.SparseAutoencoder(6, 12, activation=activation, decoder_norm=sd.UnitNorm())
    sae_lens.write(coder, tmp_path, **names(coder))
    assert json.loads((tmp_path / "cfg.json").read_text())["rescale_acts_by_decoder_norm"] is True
    x = torch.randn(50, 6)
    torch.testing.assert_close(sd.load(tmp_path)(x), coder(x))
    with torch.no_grad():
        coder.decoder[0].mul_(1.01)
    sae_lens.write(coder, tmp_path, **names(coder))
    assert json.loads((tmp_path / "cfg.json").read_text())["rescale_acts_by_decoder_norm"] is False


def test_a_top_k_distiller_raises_with_the_remedy(tmp_path: Path) -> None:
    student = sd.SparseDistiller(4, 4, 8, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=r"only ReLU and JumpReLU in transcoders\. .*`sd\.calibrate_threshold\("):
        sae_lens.write(student, tmp_path)
