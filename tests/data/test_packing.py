"""How texts become rows: where a BOS is put, and whether rows join documents."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedict import zoo
from sparsedict.data import ActivationStream, pack
from sparsedict.data._forms import token_source
from sparsedict.data._tokens import BlockSize

from ._models import ids, site
from .test_tokens import Headless, Letters

BOS = 99
TEXTS = ["abcde", "fg", "", "hij"]
SIZE = BlockSize(n_sequences=1, target=0, limit=100, pads=True)


class OwnBos(Letters):
    """A tokenizer that begins every text with its BOS, whatever it is asked for."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[BOS, *row] for row in super().__call__(texts)["input_ids"]]}


class Ended(Letters):
    """A tokenizer whose BOS is its EOS too, with which every text ends."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[*row, BOS] for row in super().__call__(texts)["input_ids"]]}


@pytest.mark.parametrize(
    ("bos", "join", "rows"),
    [
        ("both", True, [[99, 1, 2, 3], [99, 4, 5, 99], [99, 6, 7, 99], [99, 8, 9, 10]]),
        ("rows", True, [[99, 1, 2, 3], [99, 4, 5, 6], [99, 7, 8, 9], [99, 10]]),
        ("documents", True, [[99, 1, 2, 3], [4, 5, 99, 6], [7, 99, 8, 9], [10]]),
        ("none", True, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]),
        ("both", False, [[99, 1, 2, 3], [99, 4, 5], [99, 6, 7], [99, 8, 9, 10]]),
        ("rows", False, [[99, 1, 2, 3], [99, 4, 5], [99, 6, 7], [99, 8, 9, 10]]),
        ("documents", False, [[99, 1, 2, 3], [4, 5], [99, 6, 7], [99, 8, 9, 10]]),
        ("none", False, [[1, 2, 3, 4], [5], [6, 7], [8, 9, 10]]),
    ],
)
def test_every_option(bos: Any, join: bool, rows: list[list[int]]) -> None:
    source = token_source(TEXTS, Letters(), 4, bos=bos, join=join)
    assert [b.tokens[0].tolist() for b in source.blocks(None, 0, (0, 0), SIZE)] == rows
    whole = [row for row in rows if len(row) == 4]
    assert pack(TEXTS, Letters(), context=4, bos=bos, join=join).tolist() == whole

    class Padded(Letters):
        pad_token_id = 98

    filled = [row + [98] * (4 - len(row)) for row in rows]
    assert pack(TEXTS, Padded(), context=4, bos=bos, join=join, short="pad").tolist() == filled
    # A tokenizer that puts its own BOS before texts changes nothing where documents begin with one.
    if bos in ("both", "documents"):
        assert pack(TEXTS, OwnBos(), context=4, bos=bos, join=join).tolist() == whole or "" in TEXTS


words = st.lists(st.text("abcdefg", max_size=9), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(words, st.integers(2, 6), st.sampled_from(["both", "rows", "documents", "none"]), st.booleans())
def test_tokens_are_kept_in_order_and_a_bos_never_stands_beside_another(
    texts: list[str], context: int, bos: Any, join: bool
) -> None:
    texts = [*texts, "a"]
    for tokenizer in (Letters(), OwnBos(), Ended()):
        source = token_source(texts, tokenizer, context, bos=bos, join=join)
        blocks = list(source.blocks(None, 0, (0, 0), SIZE))
        rows = [block.tokens[0].tolist() for block in blocks]
        assert [t for row in rows for t in row if t != BOS] == [ord(letter) - 96 for text in texts for letter in text]
        if isinstance(tokenizer, Letters) and not isinstance(tokenizer, OwnBos | Ended):
            assert all(pair != (BOS, BOS) for row in rows for pair in pairwise(row))
            assert bos != "none" or not any(BOS in row for row in rows)
        if bos in ("both", "rows"):
            assert all(row[0] == BOS for row in rows)
        assert all(len(row) == context for row in rows[:-1]) or not join
        for index, block in enumerate(blocks):
            rest = [other.tokens.tolist() for other in source.blocks(None, 0, block.end, SIZE)]
            assert rest == [other.tokens.tolist() for other in blocks[index + 1 :]]


def test_a_bos_of_the_tokenizer_or_of_the_text_isnt_doubled() -> None:
    assert pack(["abc", "def"], OwnBos(), context=4).tolist() == [[99, 1, 2, 3], [99, 4, 5, 6]]
    assert pack(["ab", "cd"], Ended(), context=7, bos="documents").tolist() == [[99, 1, 2, 99, 3, 4, 99]]


def test_rows_of_one_document_never_hold_another() -> None:
    texts = [letter * (1 + 3 * n) for n, letter in enumerate("abcdefgh")]
    rows = pack(texts, Headless(), context=5, join=False)
    assert all(len(set(row)) == 1 for row in rows.tolist())
    stream = ActivationStream(site(), texts, tokenizer=Headless(), context=5, join=False, batch_size=8, seed=3)
    assert sorted(t for batch in stream for t in ids(batch)) == [n + 1 for n, text in enumerate(texts) for _ in text]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tokenizers_of_several_libraries() -> None:
    pytest.importorskip("transformers")
    tokenizer = zoo.load_tokenizer()
    texts = ["def f(x):\n    return x\n", "import os\n"]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    flat = [token for row in tokens for token in row]
    options: Any = {"context": len(flat), "bos": "none"}
    as_tensors = partial(tokenizer, add_special_tokens=False, return_tensors="pt")
    for made in (
        tokenizer,
        tokenizer.backend_tokenizer,
        partial(tokenizer, add_special_tokens=False),
        lambda text: as_tensors(text)["input_ids"][0],
        lambda text: tokenizer.backend_tokenizer.encode(text, add_special_tokens=False),
    ):
        assert pack(texts, made, **options).tolist() == [flat]


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bos": "always"}, ValueError, "`bos` must be one of 'both', 'rows', 'documents', 'none', got 'always'"),
        ({"join": "no"}, TypeError, "`join` must be True or False"),
        ({"short": "keep"}, ValueError, "`short` must be one of 'drop', 'pad'"),
        ({"short": "pad"}, ValueError, "must have a padding token .*tokenizer.pad_token"),
        ({"context": 0}, ValueError, "`context` must be at least 1"),
        ({"context": 1}, ValueError, "`context` must be at least 2"),
        ({"context": 90}, ValueError, "at least one row of 90 tokens, got fewer. Lower `context`, or pad short rows"),
        ({"tokenizer": None}, TypeError, "`tokenizer` must be a tokenizer if `texts` are texts"),
        ({"tokenizer": 3}, TypeError, "a function from a text to token ids, got int"),
        ({"tokenizer": lambda text: text}, TypeError, "list of integer token ids for a text, got str 'abc'"),
        ({"tokenizer": lambda text: [1.5]}, TypeError, "list of integer token ids for a text, got list"),
        ({"tokenizer": lambda text: None}, TypeError, "list of integer token ids for a text, got NoneType"),
        ({"texts": ["", ""]}, ValueError, "at least one row"),
    ],
)
def test_bad_options_raise(change: dict[str, Any], error: type[Exception], message: str) -> None:
    options: Any = {"texts": ["abc"], "tokenizer": Letters(), "context": 2, **change}
    with pytest.raises(error, match=message):
        pack(options.pop("texts"), options.pop("tokenizer"), **options)


def test_a_tokenizer_that_cuts_or_fills_raises() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    assert torch.equal(pack(["a"] * 3, made, context=3), torch.zeros(1, 3, dtype=torch.int64))
    made.enable_truncation(4)
    with pytest.raises(ValueError, match=r"got one with truncation enabled. Call `tokenizer.no_truncation\(\)` first"):
        pack(["a"], made, context=1)


@pytest.mark.as_installed
def test_other_tokenizers_are_distinguished() -> None:
    class Encoding:
        def encode(self, text: str) -> list[int]:
            return [1, 2]

    with pytest.raises(TypeError, match=r"got Encoding. Pass its method `tokenizer.encode`"):
        pack(["abc"], Encoding(), context=2)
    assert pack(["abc"], Encoding().encode, context=2).tolist() == [[1, 2]]
