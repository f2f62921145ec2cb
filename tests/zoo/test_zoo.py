"""The embedded model, its text and the script that builds it."""

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch

from sparsedict import zoo
from sparsedict.zoo import build

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def held_out() -> torch.Tensor:
    return zoo.tokens("evaluation", n_tokens=16_384)


def loss(model, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return float(build.token_loss(model, tokens))


def test_model_predicts_source_that_it_was_not_trained_on(held_out):
    model = zoo.load_model()
    assert not model.training
    assert model.config.num_layers == 4
    # Nothing learned would be log(4096) = 8.3 nats.
    assert loss(model, held_out[:24]) < 3.2


def test_model_uses_its_mlps(held_out):
    model = zoo.load_model()
    held_out = held_out[:6]
    whole = loss(model, held_out)
    for block in model.transformer.h:
        handle = block.mlp.register_forward_hook(lambda module, args, output: output * 0)
        assert loss(model, held_out) > whole + 0.15
        handle.remove()


def test_sequences_begin_with_bos_and_are_the_start_of_all_tokens(held_out):
    assert held_out.shape == (64, 256)
    assert held_out.dtype == torch.int64
    assert (held_out[:, 0] == 0).all()
    assert held_out.max() < 4096
    assert torch.equal(zoo.tokens("evaluation", n_tokens=1024), held_out[:4])


def test_tokenizer_decodes_its_own_tokens():
    tokenizer = zoo.load_tokenizer()
    text = "def f(x):\n    return x + 1  # é\n"
    assert tokenizer(text).input_ids[0] == 0
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_module_lies_on_one_side_with_any_content():
    old, new = zoo.SourceFile("json/decoder.py", "a"), zoo.SourceFile("json/decoder.py", "b")
    assert old.split == new.split
    files = {split: zoo.source_files(split) for split in ("train", "evaluation")}
    assert not {f.path for f in files["train"]} & {f.path for f in files["evaluation"]}
    share = len(files["evaluation"]) / sum(map(len, files.values()))
    assert 0.05 < share < 0.2
    assert not any("test" in f.path.split("/") for f in files["train"])


def test_absent_source_and_wrong_names_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder with Python source, but .* Install it"):
        zoo.source_files("train", tmp_path)
    with pytest.raises(ValueError, match="`n_tokens` must be at least 256, got 10"):
        zoo.tokens("train", n_tokens=10)


@pytest.mark.as_installed
def test_an_unknown_split_raises():
    with pytest.raises(ValueError, match="`split` must be 'train' or 'evaluation', got 'test'"):
        zoo.source_files("test")


@pytest.mark.parametrize("compatibility_mode", [False, True])
def test_bridge_gives_the_outputs_of_the_model(compatibility_mode, held_out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformer_lens.model_bridge")
        bridge = zoo.load_bridge(compatibility_mode=compatibility_mode)
    with torch.no_grad():
        ours, theirs = zoo.load_model()(held_out[:2]).logits, bridge(held_out[:2])
    # Compatibility mode centres the logits: probabilities are what stays.
    assert torch.allclose(ours.log_softmax(-1), theirs.log_softmax(-1), atol=2e-3)


def test_the_script_names_the_release_that_it_needs(tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    monkeypatch.setattr("sys.argv", ["build", "--out", str(tmp_path / "model")])
    with pytest.raises(SystemExit, match="2"):
        build.main()
    assert "PyTorch 2.9 or newer" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs PyTorch 2.9 or newer")
def test_the_script_builds_a_model_of_the_same_layout(tmp_path, monkeypatch, capsys):
    library = tmp_path / "library"
    library.mkdir()
    for i in range(40):
        (library / f"module_{i}.py").write_text(f"def function_{i}(value):\n    return value + {i}\n" * 40)
    out = tmp_path / "model"
    arguments = ["build", "--out", str(out), "--stdlib", str(library), "--epochs", "0.25", "--batch-size", "4"]
    monkeypatch.setattr("sys.argv", [*arguments, "--layers", "2", "--context", "128"])
    build.main()
    facts = json.loads((out / "facts.json").read_text())
    assert facts["evaluation_loss"] < 8.1
    assert (facts["layers"], facts["context"]) == (2, 128)
    assert "training tokens" in capsys.readouterr().out

    model, tokens = zoo.load_model(out), zoo.tokens("evaluation", stdlib=library, folder=out)
    assert (model.config.num_layers, tokens.shape[1]) == (2, 128)
    assert loss(model, tokens[:512]) == pytest.approx(facts["evaluation_loss"], abs=0.01)
    assert zoo.load_tokenizer(out)("import os").input_ids[0] == 0


def test_a_folder_without_a_model_is_a_clear_error(tmp_path):
    for load in (zoo.load_model, lambda folder: zoo.tokens("train", folder=folder)):
        with pytest.raises(FileNotFoundError, match=r"`folder` must contain a model .* has no config\.json"):
            load(tmp_path)


def test_older_versions_read_the_tokenizer_s_file() -> None:
    """transformers 5 saves classes that 4.57 doesn't know. The file alone, without a configuration, names none."""
    folder = Path(zoo.__path__[0]) / "stdlib_neo"
    assert sorted(file.name for file in folder.glob("token*")) == ["tokenizer.json"]
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert content["version"] == "1.0"
    known = {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor"}
    assert set(content) == known | {"decoder", "model"}
    of_bpe = {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"}
    assert set(content["model"]) == of_bpe | {"byte_fallback", "ignore_merges", "vocab", "merges"}
    assert set(content["added_tokens"][0]) == {
        *("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
    }
    byte_level = {"type", "add_prefix_space", "trim_offsets", "use_regex"}
    assert set(content["pre_tokenizer"]) == set(content["decoder"]) == byte_level
    assert content["pre_tokenizer"]["type"] == content["decoder"]["type"] == "ByteLevel"


def test_a_bos_begins_texts_whichever_version_of_transformers() -> None:
    tokenizer = zoo.load_tokenizer()
    # Written out in the tokenizer itself, so that it doesn't hang on a keyword that only version 5 reads.
    assert tokenizer.backend_tokenizer.encode("import os").ids[0] == tokenizer.bos_token_id
    assert tokenizer("import os").input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer("import os", add_special_tokens=False).input_ids[0] != tokenizer.bos_token_id


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        monkeypatch.delitem(sys.modules, name)
    # None in `sys.modules` makes an import fail as if the package weren't installed.
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(ImportError, match=r"needs transformer_lens.*: pip install 'sparsedict\[lens\]'"):
        zoo.load_bridge()
