"""The forms of ``--data``."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparsedict.cli._data_name import DataName, overlap
from sparsedict.cli._tokens import Corpus

from .test_tokens import CORPUS, Characters

ROWS = np.arange(10).reshape(2, 5)
TEXTS = ["abc", "def", "ghi"]
PACKED = [[0, *map(ord, text)] for text in TEXTS]

# The library datasets leaves files open that it stops reading.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")
]


def corpus(**changes: Any) -> Corpus:
    return Corpus(**{**vars(CORPUS), **changes})


def write_csv(file: Path, texts: list[str], column: str = "text", separator: str = ",") -> None:
    file.write_text("\n".join([f"id{separator}{column}", *(f"{n}{separator}{t}" for n, t in enumerate(texts))]))


def write_parquet(file: Path, columns: dict[str, Any]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table(columns), file)


def written(kind: str, folder: Path) -> Path:
    """Writes the texts in one form."""
    file = folder / f"a{kind}"
    rows = [{"text": text, "id": n} for n, text in enumerate(TEXTS)]
    lines = "\n".join(map(json.dumps, rows))
    if kind in (".jsonl", ".ndjson"):
        file.write_text(lines)
    elif kind == ".jsonl.gz":
        file.write_bytes(gzip.compress(lines.encode()))
    elif kind == ".json":
        file.write_text(json.dumps(rows))
    elif kind in (".csv", ".tsv"):
        write_csv(file, TEXTS, separator="\t" if kind == ".tsv" else ",")
    elif kind == ".parquet":
        write_parquet(file, {"text": TEXTS, "id": [0, 1, 2]})
    else:
        file.write_text("<|endoftext|>".join(TEXTS))
    return file


@pytest.mark.parametrize("kind", [".txt", ".md", ".jsonl", ".ndjson", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet"])
def test_files_of_texts(kind: str, tmp_path: Path) -> None:
    file = written(kind, tmp_path)
    assert CORPUS.read(str(file)).tolist() == PACKED
    if kind != ".md":
        assert CORPUS.read(str(tmp_path)).tolist() == PACKED
    assert CORPUS.read(str(tmp_path / "*")).tolist() == PACKED


@pytest.mark.parametrize(
    "found",
    [
        TEXTS,
        [{"text": text} for text in TEXTS],
        {"text": TEXTS},
        {"data": [{"text": text} for text in TEXTS]},
        {"version": 1, "text": TEXTS},
        {"text": dict(enumerate(TEXTS)), "id": {0: 5, 1: 6, 2: 7}},
        {n: {"text": text, "id": n} for n, text in enumerate(TEXTS)},
    ],
    ids=str,
)
def test_json_of_texts(found: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(found))
    assert CORPUS.read(str(tmp_path / "a.json")).tolist() == PACKED


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_column_is_chosen_and_a_missing_one_lists_the_others(kind: str, tmp_path: Path) -> None:
    file = written(kind, tmp_path)
    with pytest.raises(ValueError, match="story"):
        corpus(column="story").read(str(file))
    if kind == ".csv":
        write_csv(file, TEXTS, "story")
    elif kind == ".parquet":
        write_parquet(file, {"story": TEXTS})
    else:
        rows = [{"story": text} for text in TEXTS]
        file.write_text(json.dumps(rows) if kind == ".json" else "\n".join(map(json.dumps, rows)))
    assert corpus(column="story").read(str(file)).tolist() == PACKED
    with pytest.raises(ValueError, match="--column"):
        CORPUS.read(str(file))


@pytest.mark.parametrize("column", [None, "ids"])
@pytest.mark.parametrize("kind", [".npz", ".pt", ".safetensors", ".parquet", ".jsonl", ".json"])
def test_files_of_tokens(kind: str, column: str | None, tmp_path: Path) -> None:
    file, name = tmp_path / f"a{kind}", column or "input_ids"
    if kind == ".npz":
        np.savez(file, **{name: ROWS})
    elif kind == ".pt":
        torch.save({name: torch.from_numpy(ROWS)}, file)
    elif kind == ".safetensors":
        save_file({name: torch.from_numpy(ROWS).contiguous()}, file)
    elif kind == ".parquet":
        write_parquet(file, {name: ROWS.tolist()})
    else:
        rows = [{name: row} for row in ROWS.tolist()]
        file.write_text(json.dumps(rows) if kind == ".json" else "\n".join(map(json.dumps, rows)))
    chosen = corpus(column=column, tokenizer=None, context=5)
    assert chosen.read(str(file)).tolist() == ROWS.tolist()
    assert chosen.read(str(tmp_path)).tolist() == ROWS.tolist()


def test_tokens_of_several_shapes(tmp_path: Path) -> None:
    torch.save(torch.arange(10), tmp_path / "long.pt")
    assert corpus(tokenizer=None).read(str(tmp_path / "long.pt")).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    torch.save({"input_ids": torch.from_numpy(ROWS), "attention_mask": mask}, tmp_path / "masked.pt")
    assert corpus(tokenizer=None).read(str(tmp_path / "masked.pt")).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    (tmp_path / "ragged.jsonl").write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [4]}\n{"input_ids": [5, 6, 7, 8]}')
    assert corpus(tokenizer=None).read(str(tmp_path / "ragged.jsonl")).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    for n in range(2):
        np.save(tmp_path / f"part-{n}.npy", ROWS + n)
    both = corpus(tokenizer=None).read(str(tmp_path / "part-*.npy")).tolist()
    assert both == [*ROWS.tolist(), *(ROWS + 1).tolist()]
    np.save(tmp_path / "part-2.npy", ROWS[:, :4])
    with pytest.raises(ValueError, match="arrays of the same width"):
        corpus(tokenizer=None).read(str(tmp_path / "part-*.npy"))


def test_rows_of_one_length_are_cut_on_request(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    cut = corpus(tokenizer=None, context=3, cut=True)
    assert cut.read(str(tmp_path / "a.npy")).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert corpus(tokenizer=None, context=5, cut=True).read(str(tmp_path / "a.npy")).tolist() == ROWS.tolist()
    with pytest.raises(ValueError, match=r"sequence of 11 tokens, got 10 tokens in total\. Lower --context"):
        corpus(tokenizer=None, context=11, cut=True).read(str(tmp_path / "a.npy"))


def test_data_without_a_token_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="the data must contain at least one text, got none"):
        CORPUS.read(str(tmp_path / "a.txt"))
    # One token alone, its BOS.
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n{"text": ""}')
    with pytest.raises(ValueError, match=r"got 0 tokens in total\. Check that the texts"):
        CORPUS.read(str(tmp_path / "a.jsonl"))
    np.savez(tmp_path / "a.npz", input_ids=np.array([[1, 2], [3]], dtype=object))
    np.save(tmp_path / "a.npy", np.array([[1, 2], [3]], dtype=object))
    for name in ("a.npz", "a.npy"):
        with pytest.raises(ValueError, match=rf"{name}' must contain integers, got Python objects\. Write rows of"):
            CORPUS.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"story": "a", "id": 1}', "got the fields 'story', 'id'."),
        ('{"text": null}', "got null there."),
        ("{}", "got an empty object."),
        ("[1, [2]]", "got [1, [2]]."),
        ("[1, true]", "got [1, True]."),
        ("3", "got 3."),
    ],
)
def test_a_line_without_the_field_reports_its_fields(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row)
    with pytest.raises(ValueError, match="line 1, must be a JSON object with the field 'text'") as caught:
        CORPUS.read(str(tmp_path / "a.jsonl"))
    assert words in str(caught.value)


def test_the_mask_beside_a_named_column_counts(tmp_path: Path) -> None:
    rows = [{"ids": [1, 2, 3], "attention_mask": [1, 1, 0]}, {"ids": [4, 5, 6], "attention_mask": [1, 1, 1]}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert corpus(tokenizer=None, column="ids").read(str(tmp_path / "a.json")).tolist() == [[1, 2, 4, 5]]


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2]})
    test = datasets.Dataset.from_dict({"text": ["xyz"], "label": [0]})
    train.save_to_disk(tmp_path / "one")
    assert CORPUS.read(str(tmp_path / "one")).tolist() == PACKED
    both = datasets.DatasetDict({"train": train, "validation": test})
    both.save_to_disk(tmp_path / "both")
    held_out = [[0, *map(ord, "xyz")]]
    assert CORPUS.read(str(tmp_path / "both")).tolist() == PACKED
    assert corpus(split="validation").read(str(tmp_path / "both")).tolist() == held_out
    assert CORPUS.read(f"{tmp_path / 'both'}:validation").tolist() == held_out
    assert corpus(split="train").read(f"{tmp_path / 'both'}::validation", "--held-out").tolist() == held_out
    with pytest.raises(ValueError, match=r"--split must be one of train, validation .* got 'valid'. Did you mean"):
        CORPUS.read(f"{tmp_path / 'both'}::valid")
    datasets.DatasetDict({"only": train}).save_to_disk(tmp_path / "only")
    assert CORPUS.read(str(tmp_path / "only")).tolist() == PACKED
    datasets.Dataset.from_dict({"input_ids": ROWS.tolist(), "attention_mask": [[1] * 5] * 2}).save_to_disk(
        tmp_path / "i"
    )
    assert corpus(tokenizer=None).read(str(tmp_path / "i")).tolist() == ROWS.tolist()
    with pytest.raises(ValueError, match=r"one': --column must be a column, one of \['label', 'text'\], got 'txt'"):
        corpus(column="txt").read(str(tmp_path / "one"))


def test_folders_in_the_layout_of_the_hub(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# Stories")
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", {"text": TEXTS[:1]})
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", {"text": TEXTS[1:]})
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", {"text": ["xyz"]})
    assert CORPUS.read(str(tmp_path)).tolist() == PACKED
    assert CORPUS.read(f"{tmp_path}::test").tolist() == [[0, *map(ord, "xyz")]]
    with pytest.raises(ValueError, match=r"can't be read: .*valid"):
        CORPUS.read(f"{tmp_path}::valid")
    (tmp_path / "notes.csv").write_text("a,b\n1,2")
    with pytest.raises(ValueError, match=r"files of one kind, but .* contains 1 \.csv, 3 \.parquet. Pass a pattern"):
        CORPUS.read(str(tmp_path))


def test_bad_rows_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["abc", None]})
    with pytest.raises(ValueError, match=r"a\.parquet': row 1, column 'text', must be a text, got None"):
        CORPUS.read(str(tmp_path / "a.parquet"))
    (tmp_path / "a.json").write_text('["abc", 3]')
    with pytest.raises(
        ValueError, match=r"a\.json': row 0 must be an integer token id like the other items, got 'abc'"
    ):
        CORPUS.read(str(tmp_path / "a.json"))
    (tmp_path / "a.csv").write_text("id,text\n1,abc\n2\n")
    with pytest.raises(ValueError, match="line 3, must have the column 'text'"):
        CORPUS.read(str(tmp_path / "a.csv"))
    for name in ("a.npy", "a.npz", "a.pt", "a.safetensors", "a.parquet"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=r"--data .* can't be read"):
            CORPUS.read(str(tmp_path / name))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"--data .* can't be read"):
        CORPUS.read(str(tmp_path / "model.pt"))


def test_only_the_requested_tokens_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n' * 1000 + "broken")
    assert 20 <= corpus(n_tokens=20).read(str(tmp_path / "a.jsonl")).numel() < 400


def test_options_of_packing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd<|endoftext|>efghi")
    file = str(tmp_path / "a.txt")
    assert corpus(bos="none").read(file).tolist() == [[*map(ord, "abcd")], [*map(ord, "efgh")]]
    with pytest.warns(UserWarning, match=r"--no-join leaves out 2 of 4 sequences, with 27\.3% of the tokens, because"):
        rows = corpus(bos="documents", join=False).read(file)
    assert rows.tolist() == [[0, *map(ord, "abc")], [0, *map(ord, "efg")]]


RAGGED = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("form", ["lists", "objects", "list"])
def test_rows_of_ids_of_different_lengths(form: str, tmp_path: Path) -> None:
    file = tmp_path / ("a.json" if form == "list" else "a.jsonl")
    rows = [{"input_ids": row} if form == "objects" else row for row in RAGGED]
    file.write_text(json.dumps(rows) if form == "list" else "\n".join(map(json.dumps, rows)))
    joined = corpus(tokenizer=None, context=2)
    assert joined.read(str(file)).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    if form == "lists":
        assert joined.read(str(tmp_path)).tolist() == joined.read(str(file)).tolist()
    apart = dataclasses.replace(joined, join=False)
    with pytest.warns(UserWarning, match=r"--no-join leaves out 3 of 6 sequences, with 33\.3% of the tokens, because"):
        assert apart.read(str(file)).tolist() == [[1, 2], [5, 6], [7, 8]]
    with pytest.raises(ValueError, match=r"of 6 tokens, got 9 tokens in total\. Lower --context, or omit --no-join\."):
        dataclasses.replace(apart, context=6).read(str(file))


def test_rows_of_one_length_are_cut_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    cut = corpus(tokenizer=None, context=3, cut=True, join=False)
    with pytest.warns(UserWarning, match=r"--no-join leaves out 2 of 4 sequences"):
        assert cut.read(str(tmp_path / "a.npy")).tolist() == [[0, 1, 2], [5, 6, 7]]
    # Nothing is left out without --context.
    assert dataclasses.replace(cut, cut=False).read(str(tmp_path / "a.npy")).tolist() == ROWS.tolist()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text", {"split": "validation"}, "--split must be omitted for --data .*, which is not a dataset, got 'valid"),
        ("text", {"config": "en"}, "--config must be omitted for --data .*, which is not a dataset, got 'en'"),
        ("text", {"column": "story"}, "--column must be omitted for --data .*, which has no columns"),
        ("ids", {"split": "train"}, "--split must be omitted"),
        ("ids", {"column": "story"}, "--column must be omitted for --data .*, which has no columns"),
        ("ids", {"bos": "none"}, "--bos must be omitted for --data .*, which has token ids, not texts"),
        ("flat", {"join": False}, "--no-join must be omitted for --data .*, which is one sequence of token ids"),
        ("lists", {"column": "story"}, "--column must be omitted"),
        ("folder", {"split": "test"}, r"--split must be omitted for --data .*, a folder of \.txt files without splits"),
        ("saved", {"split": "test"}, "--split must be omitted for --data .*, a folder of save_to_disk without splits"),
        ("saved", {"config": "en"}, "--config must be omitted for --data .*, a folder of save_to_disk without conf"),
    ],
)
def test_options_without_effect_raise(content: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    place = written_as(content, tmp_path)
    assert len(CORPUS.read(str(place)))
    with pytest.raises(ValueError, match=message):
        corpus(**options).read(str(place))
    # They may be for the training data, and runs of earlier versions have them.
    if content not in ("text", "flat"):
        assert len(corpus(**options).read(str(place), "--held-out"))
        assert len(corpus(**options, strict=False).read(str(place)))


def written_as(content: str, folder: Path) -> Path:
    """Writes data that has neither configurations nor splits."""
    if content in ("text", "folder"):
        written(".txt", folder)
        return folder if content == "folder" else folder / "a.txt"
    if content == "saved":
        pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved")
        return folder / "saved"
    if content == "lists":
        (folder / "a.jsonl").write_text("[1, 2, 3, 4]\n[5, 6, 7, 8]")
        return folder / "a.jsonl"
    np.save(folder / "a.npy", ROWS if content == "ids" else ROWS.ravel())
    return folder / "a.npy"


@pytest.mark.parametrize("option", ["--data", "--held-out"])
def test_parts_of_a_name_without_effect_raise(option: str, tmp_path: Path) -> None:
    file = written(".jsonl", tmp_path)
    with pytest.raises(
        ValueError, match=rf"{option} must be '.*a\.jsonl' without 'validation', which is not a dataset"
    ):
        CORPUS.read(f"{file}:validation", option)


def test_overlapping_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "texts" / f"{name}.txt").write_text("abc")
    (tmp_path / "link.txt").symlink_to(tmp_path / "texts" / "a.txt")
    monkeypatch.chdir(tmp_path)
    same = ("texts", "./texts/", "texts/a.txt", "link.txt", str(tmp_path / "texts" / "*.txt"))
    for one, other in itertools.product(same, same):
        assert overlap(one, other, None, None), (one, other)
    assert not overlap("texts/a.txt", "texts/b.txt", None, None)
    assert not overlap("link.txt", "texts/b.txt", None, None)
    assert not overlap("texts", "texts::test", None, None)
    assert not overlap("texts", "texts::test", None, "train")
    assert overlap("texts", "texts::test", None, "test")
    assert overlap("owner/name:en", "owner/name:en", None, None)
    assert not overlap("owner/name:en", "owner/other:en", None, None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name:en", ("owner/name", "en", None)),
        ("owner/name:en:test", ("owner/name", "en", "test")),
        ("owner/name::test", ("owner/name", None, "test")),
        ("C:\\data\\texts:en", ("C:\\data\\texts", "en", None)),
    ],
)
def test_names_have_configurations_and_splits(text: str, parts: tuple[str | None, ...]) -> None:
    data = DataName.parse(text, None, None, "--data")
    assert (data.name, data.config, data.split) == parts


def test_names_that_contradict_an_option_raise() -> None:
    with pytest.raises(ValueError, match="--split and --data must agree, got 'train' and 'test'"):
        DataName.parse("owner/name::test", None, "train", "--data")
    with pytest.raises(ValueError, match="the form NAME:CONFIG:SPLIT"):
        DataName.parse("a:b:c:d", None, None, "--data")
    with pytest.raises(ValueError, match="--data must be the name of a file"):
        DataName.parse(" ", None, None, "--data")


def test_a_configuration_and_a_split_reach_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load(*names: str, **options: Any) -> Any:
        asked.append((names, options))
        return [{"text": text} for text in TEXTS]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert CORPUS.read("owner/name:en:test").tolist() == PACKED
    assert corpus(config="fr").read("owner/name").tolist() == PACKED
    assert asked == [
        (("owner/name",), {"name": "en", "split": "test", "streaming": True}),
        (("owner/name",), {"name": "fr", "split": "train", "streaming": True}),
    ]


def test_mistyped_names_list_near_ones_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "train.txt").write_text("abc")
    monkeypatch.chdir(tmp_path)
    for name in ("storeis", "./storeis", str(tmp_path / "storeis")):
        with pytest.raises(FileNotFoundError, match=r"no file or folder .*Similar names: .*stories"):
            CORPUS.read(name)
    with pytest.raises(FileNotFoundError, match=r"Similar names: stories/train\.txt"):
        CORPUS.read("stories/train.tx")
    with pytest.raises(FileNotFoundError, match=r"The folder 'stories' contains train\.txt"):
        CORPUS.read("stories/quite-other")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        CORPUS.read("./gone/texts")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match="'link' is a link to 'gone', which doesn't exist"):
        CORPUS.read("link")
    assert Characters.bos_token_id == 0
