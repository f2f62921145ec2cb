from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sparsedict.cli._tokens import Corpus, held_out_rows
from sparsedict.cli._train_options import add_options
from sparsedict.cli._vocabulary import vocabulary
from sparsedict.cli.train import tokens_of


class Characters:
    """One token for each character; BOS is 0."""

    bos_token_id = 0

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(character) for character in text] for text in texts]}


CORPUS = Corpus(Characters(), context=4, column=None, split=None, n_tokens=1000)


def test_text_files_are_divided_where_documents_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc<|endoftext|>\n<|endoftext|>def")
    expected = [[0, *map(ord, "abc")], [0, *map(ord, "def")]]
    assert CORPUS.read(str(tmp_path / "a.txt")).tolist() == expected
    assert CORPUS.read(str(tmp_path)).tolist() == expected


def test_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "abc"}\n\n{"text": "def", "id": 3}\n')
    assert len(CORPUS.read(str(file))) == 2
    file.write_text('{"text": "abc"}\n{"body": "def"}\n')
    with pytest.raises(ValueError, match=r"line 2, must be a JSON object with the field 'text'"):
        CORPUS.read(str(file))


@pytest.mark.parametrize("dtype", ["uint16", "int64", "int32"])
def test_arrays_of_tokens(dtype: str, tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, np.arange(10, dtype=dtype))
    assert CORPUS.read(str(file)).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    np.save(file, np.arange(10, dtype=dtype).reshape(2, 5))
    assert CORPUS.read(str(file)).tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("array", [np.zeros(9), np.zeros((2, 2, 2), dtype=int), np.zeros(3, dtype=int)])
def test_rejects_other_arrays(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"--data '.*a\.npy': the data must"):
        CORPUS.read(str(tmp_path / "a.npy"))


def test_errors_name_the_missing_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no file or folder '\./gone'"):
        CORPUS.read("./gone")
    with pytest.raises(FileNotFoundError, match=r"a folder with data \(\.txt.*contains nothing"):
        CORPUS.read(str(tmp_path / "empty"))
    (tmp_path / "a.docx").write_text("abc")
    with pytest.raises(ValueError, match=r"must be a file with one of the suffixes \.txt, .*\.safetensors"):
        CORPUS.read(str(tmp_path / "a.docx"))
    with pytest.raises(ValueError, match=r"MODEL has no tokenizer"):
        Corpus(None, 4, None, None, 10).read(str(tmp_path / "a.txt"))


def test_hub_errors_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        FileNotFoundError, match=r"its split 'train' couldn't be loaded from the hub \(no route to host\)"
    ):
        CORPUS.read("some/data")


def test_of_a_hub_data_set_no_more_is_read_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    class Endless:
        def __iter__(self):
            while True:
                yield {"story": "a" * 100}

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Endless())
    rows = Corpus(Characters(), 4, "story", "train", 50).read("some/data")
    assert 50 <= rows.numel() < 1000
    columns = r"got the columns \['story'\]. Pass the name of the column with the texts as --column"
    with pytest.raises(ValueError, match=columns):
        CORPUS.read("some/data")


def test_the_last_rows_are_held_out() -> None:
    rows = torch.arange(20).view(10, 2)
    train, held_out = held_out_rows(rows, 0.2)
    assert torch.equal(torch.cat([train, held_out]), rows)
    assert len(held_out) == 2
    with pytest.raises(ValueError, match=r"at least 2 sequences"):
        held_out_rows(rows[:1], 0.5)


def test_held_out_data_that_is_training_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.arange(20).reshape(2, 10))
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    add_options(parser)
    args = parser.parse_args(["m", "--site", "mlp", "--data", "a.npy", "--held-out", "./a.npy", "--out", "x"])
    config = SimpleNamespace(max_position_embeddings=16, vocab_size=20)
    with pytest.warns(UserWarning, match=r"--held-out './a\.npy' has data of --data 'a\.npy', so the measurements are"):
        train, held_out = tokens_of(args, config, None)
    assert torch.equal(train, held_out)


def test_vocabularies(tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    file.write_text(json.dumps(["a", "b"]))
    assert vocabulary(file) == ["a", "b"]
    file.write_text(json.dumps({"b": 2, "a": 0}))
    assert vocabulary(file) == ["a", "[1]", "b"]
    for wrong in ('{"a": "b"}', "[1]", "3"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=r"--vocabulary must be a JSON list"):
            vocabulary(file)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"--vocabulary must be a JSON file"):
        vocabulary(file)
