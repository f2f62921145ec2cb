from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsedict.data import ActivationStream, pack
from sparsedict.data._forms import token_source
from sparsedict.data._tokens import BlockSize

from ._models import ids, site, unique

SIZE = BlockSize(n_sequences=2, target=0, limit=100, pads=True)


class Letters:
    """A tokenizer in the manner of Hugging Face's: one id for each letter."""

    bos_token_id: int | None = 99

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) - 96 for letter in text] for text in texts]}


class Headless(Letters):
    bos_token_id = None


class Streamed:
    """An iterable without random access."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


def packed(texts: Any, tokenizer: Any, context: int, start: tuple[int, int] = (0, 0)) -> list[list[int]]:
    source = token_source(texts, tokenizer, context)
    return [row for block in source.blocks(None, 0, start, SIZE) for row in block.tokens.tolist()]


def served(tokens: Any, **options: Any) -> list[int]:
    return sorted(token for batch in ActivationStream(site(), tokens, batch_size=4, **options) for token in ids(batch))


def test_rows_and_documents_begin_with_bos() -> None:
    assert packed(["abcdef", "gh", "", "ijk"], Letters(), 4) == [
        [99, 1, 2, 3],
        [99, 4, 5, 6],
        [99, 7, 8, 99],
        [99, 9, 10, 11],
    ]
    assert packed(["abc", "d"], Headless(), 2) == [[1, 2], [3, 4]]
    assert packed(["abc"], lambda text: list(text.encode()), 2) == [[97, 98], [99, 0]]


def test_packing_is_taken_up_within_a_document() -> None:
    texts = Streamed(["abcdefgh", "ij", "klmnopq"])
    source = token_source(texts, Letters(), 4)
    blocks = list(source.blocks(None, 0, (0, 0), SIZE))
    for index, block in enumerate(blocks):
        rest = source.blocks(None, 0, block.end, SIZE)
        assert [other.tokens.tolist() for other in rest] == [other.tokens.tolist() for other in blocks[index + 1 :]]


def test_texts_stream_and_resume() -> None:
    texts = ["".join(chr(97 + (i * j) % 26) for j in range(1 + i % 7)) for i in range(40)]
    for data in (texts, Streamed(texts), [{"text": text} for text in texts]):
        stream = ActivationStream(
            site(exclude_tokens=[99]), data, batch_size=8, context=5, buffer_size=20, tokenizer=Letters()
        )
        assert stream.n_tokens is None
        batches = list(stream)
        letters = [ord(letter) - 96 for text in texts for letter in text]
        assert sorted(token for batch in batches for token in ids(batch)) == sorted(letters)
        iterator = iter(stream)
        for _ in range(5):
            next(iterator)
        stream.load_state_dict(stream.state_dict())
        rest = list(stream)
        assert [ids(batch) for batch in rest] == [ids(batch) for batch in batches[5:]]


def test_pack_gives_whole_rows() -> None:
    assert pack(["abcdef", "ghi"], Letters(), context=4).tolist() == [[99, 1, 2, 3], [99, 4, 5, 6], [99, 7, 8, 9]]
    with pytest.raises(ValueError, match="at least one row of 9 tokens"):
        pack(["ab"], Letters(), context=9)


@pytest.mark.parametrize("form", ["tensor", "uint16", "memmap", "lists", "mapping", "batches", "dicts", "long", "ints"])
def test_every_form_of_tokens_is_read_completely(form: str, tmp_path: Path) -> None:
    tokens = unique(7, 5)
    array = tokens.numpy().astype(np.uint16)
    np.save(tmp_path / "tokens.npy", array)
    data: Any = {
        "tensor": tokens.int(),
        "uint16": array,
        "memmap": np.load(tmp_path / "tokens.npy", mmap_mode="r"),
        "lists": tokens.tolist(),
        "mapping": {"input_ids": tokens.tolist()},
        "batches": Streamed(list(tokens.split(3))),
        "dicts": [{"input_ids": row, "attention_mask": torch.ones(5)} for row in tokens],
        "long": tokens.flatten()[:33],
        "ints": tokens.flatten().tolist(),
    }[form]
    options = {"context": 4} if form in ("long", "ints") else {}
    assert served(data, **options) == list(range(33 if form == "long" else 35))


def test_one_long_row_is_cut_into_sequences_including_its_end() -> None:
    source = token_source(torch.arange(11), None, 4)
    assert [block.tokens.tolist() for block in source.blocks(None, 0, (0, 0), SIZE)] == [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[8, 9, 10]],
    ]
    assert source.n_positions == 11
    assert list(source.blocks(None, 0, (3, 0), SIZE)) == []


def test_rows_of_different_lengths_are_padded_and_long_ones_cut() -> None:
    source = token_source([[1, 2, 3, 4, 5], [6], [7, 8]], None, 3)
    blocks = list(source.blocks(None, 0, (0, 0), SIZE))
    assert [block.tokens.tolist() for block in blocks] == [[[1, 2, 3], [4, 5, 0]], [[6, 0], [7, 8]]]
    assert [None if b.attention_mask is None else b.attention_mask.sum().item() for b in blocks] == [5, 3]
    assert blocks[0].end == (1, 0)
    assert served([[1, 2, 3, 4, 5], [6], [7, 8]], context=3) == list(range(1, 9))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_datasets() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": unique(6, 3).tolist()})
    assert served(rows) == list(range(18))
    assert served(rows.to_iterable_dataset().shuffle(seed=0, buffer_size=3)) == list(range(18))
    texts = datasets.Dataset.from_dict({"text": ["abc", "defg"]})
    for data in (texts, texts.to_iterable_dataset(), texts["text"]):
        assert served(data, tokenizer=Headless(), context=3) == list(range(1, 8))
    with pytest.raises(TypeError, match="Pass one of them"):
        served(datasets.DatasetDict({"train": texts}))
    with pytest.raises(TypeError, match=r"got the columns \['story'\]. Pass the name of the column"):
        served(texts.rename_column("text", "story"))


def test_an_iterator_of_tokens_is_read_once() -> None:
    stream = ActivationStream(site(), iter(unique(4, 4)), batch_size=4)
    assert sum(batch.n_tokens for batch in stream) == 16
    with pytest.raises(ValueError, match="which can be read only once"):
        list(stream)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.rand(2, 3), TypeError, r"integer token ids, got an array of torch.float32 \(2, 3\)"),
        (torch.ones(2, 3, dtype=torch.bool), TypeError, "integer token ids"),
        (np.ones((2, 2)), TypeError, "integer token ids, got an array of float64"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), ValueError, "one long row, got shape"),
        (torch.zeros(0, 3, dtype=torch.int64), ValueError, "at least one token"),
        ([], ValueError, "empty list"),
        (iter([]), ValueError, "at least one item"),
        (["text"], TypeError, "`tokenizer` must be a tokenizer"),
        ("text", TypeError, "got str. Wrap it in a list"),
        (__file__, TypeError, "got str. Read the file first"),
        (3, TypeError, "got int"),
        ([torch.rand(3)], TypeError, r"`tokens\[0\]` must contain integer token ids, got an array of torch.float32"),
        ([object()], TypeError, r"`tokens\[0\]` must contain integer token ids, got <object .* of type object"),
        ({"ids": [1]}, TypeError, r"got the columns \['ids'\]"),
        (
            {"input_ids": torch.ones(2, 3, dtype=torch.int64), "attention_mask": torch.ones(2, 2)},
            ValueError,
            r"shape of the tokens, \(2, 3\), got \(2, 2\)",
        ),
        (torch.tensor([[5000]]), ValueError, "from 0 to 4095, the vocabulary of the .*, got ids from 5000 to 5000"),
        (torch.tensor([[-1]]), ValueError, "got ids from -1 to -1"),
    ],
)
def test_bad_tokens_raise(tokens: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(ActivationStream(site(), tokens))
