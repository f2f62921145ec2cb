"""Forms of tokens and texts are recognised by type, whatever their first item, and errors name the row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparsedict import SparseAutoencoder, TopK, UnitNorm
from sparsedict.analysis import top_examples
from sparsedict.data import ActivationStream, as_batches, pack

from ._models import Counted, ids, site, unique
from .test_tokens import Headless, Letters, Streamed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXTS = ["abc", "defg"]
LETTERS = list(range(1, 8))
ROWS = unique(6, 3)
NUMBERS = list(range(18))


def served(tokens: Any, **options: Any) -> list[int]:
    return sorted(token for batch in ActivationStream(site(), tokens, batch_size=4, **options) for token in ids(batch))


def texts_served(texts: Any, **options: Any) -> list[int]:
    return served(texts, tokenizer=Headless(), context=3, **options)


def pandas_texts(form: str) -> Any:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series(TEXTS, index=[5, 9])
    return {
        "series": series,
        "string series": series.astype("string"),
        "categories": series.astype("category"),
        "index": pandas.Index(TEXTS),
        "frame": pandas.DataFrame({"text": series, "label": [1, 2]}),
        "frame column": pandas.DataFrame({"text": series})["text"],
    }[form]


@pytest.mark.parametrize("form", ["series", "string series", "categories", "index", "frame", "frame column"])
def test_pandas_texts_are_read_by_place(form: str) -> None:
    assert texts_served(pandas_texts(form)) == LETTERS


@pytest.mark.parametrize(
    "dtype", [None, object, np.dtypes.StringDType() if hasattr(getattr(np, "dtypes", None), "StringDType") else None]
)
def test_numpy_texts(dtype: Any) -> None:
    assert texts_served(np.array(TEXTS, dtype=dtype)) == LETTERS
    assert texts_served(list(np.array(TEXTS))) == LETTERS
    with pytest.raises(ValueError, match=r"a one-dimensional array of texts, got shape \(1, 2\)"):
        texts_served(np.array([TEXTS]))


def test_other_texts() -> None:
    assert texts_served(tuple(TEXTS)) == LETTERS
    assert texts_served(text for text in TEXTS) == LETTERS
    assert texts_served({"text": TEXTS, "label": [0, 1]}) == LETTERS
    assert texts_served({"story": TEXTS}, text_column="story") == LETTERS
    assert texts_served(["", "abc", "", "defg"]) == LETTERS
    assert texts_served([{"story": text} for text in TEXTS], text_column="story") == LETTERS
    assert texts_served(({"story": text} for text in TEXTS), text_column="story") == LETTERS


@pytest.mark.parametrize("form", ["array", "chunked", "table", "batch"])
def test_pyarrow_texts_and_tokens(form: str) -> None:
    arrow = pytest.importorskip("pyarrow")

    def made(values: list[Any], column: str) -> Any:
        return {
            "array": lambda: arrow.array(values),
            "chunked": lambda: arrow.chunked_array([values[:1], values[1:]]),
            "table": lambda: arrow.table({column: values}),
            "batch": lambda: arrow.RecordBatch.from_pydict({column: values}),
        }[form]()

    assert texts_served(made(TEXTS, "text")) == LETTERS
    assert served(made(ROWS.tolist(), "input_ids")) == NUMBERS
    with pytest.raises(TypeError, match=r"`tokens\[1\]`.* must be a text, got None"):
        texts_served(made(["abc", None], "text"))
    if form in ("array", "chunked"):
        assert served(made(NUMBERS, ""), context=3) == NUMBERS


def test_datasets_of_all_formats_and_columns() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"story": TEXTS, "label": [0, 1]})
    for made in (data, data.to_iterable_dataset(), data.with_format("numpy"), data.with_format("arrow"), data[:]):
        assert texts_served(made, text_column="story") == LETTERS
    for column in (data["story"], data.to_iterable_dataset()["story"], data.with_format("numpy")["story"]):
        assert texts_served(column) == LETTERS
    rows = datasets.Dataset.from_dict(
        {"input_ids": ROWS.tolist(), "attention_mask": [[1, 1, 1]] * 6, "text": ["a"] * 6}
    )
    for form in (None, "torch", "numpy", "arrow", "pandas"):
        assert served(rows.with_format(form)) == NUMBERS
    assert served(rows["input_ids"]) == NUMBERS
    assert texts_served(rows, text_column="text") == [1] * 6
    assert served(rows.with_transform(lambda batch: {"input_ids": batch["input_ids"]})) == NUMBERS
    with pytest.raises(ValueError, match=r"one of \['label', 'story'\], got 'stroy'. Did you mean 'story'"):
        served(data, tokenizer=Letters(), text_column="stroy")
    with pytest.raises(TypeError, match=r"`tokens\[0\]`, column 'label', must be a text, got 0 of type int"):
        served(data, tokenizer=Letters(), text_column="label")
    with pytest.raises(TypeError, match=r"Pass one of them: `tokens\['train'\]`"):
        served(datasets.IterableDatasetDict({"train": data.to_iterable_dataset()}))
    with pytest.raises(ValueError, match="at least one item, got an empty Dataset"):
        served(datasets.Dataset.from_dict({"text": []}), tokenizer=Letters())


def test_frames_of_tokens() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"input_ids": list(ROWS.numpy()), "attention_mask": [np.ones(3)] * 6}, index=range(7, 13))
    assert served(frame) == NUMBERS
    assert served(frame["input_ids"]) == NUMBERS
    assert served(pandas.Series(NUMBERS, index=NUMBERS[::-1]), context=3) == NUMBERS
    with pytest.raises(TypeError, match="Pass the name of the column with the texts as `text_column`"):
        served(pandas.DataFrame({"body": TEXTS}))


@pytest.mark.parametrize(
    "tokens",
    [
        list(ROWS.flatten().numpy()),
        list(ROWS.flatten()),
        range(18),
        ROWS.numpy().astype(object),
        [np.uint16(0), *range(1, 18)],
        list(ROWS.numpy()),
        [[row] for row in ROWS],
        [tuple(row.tolist()) for row in ROWS],
        {"input_ids": list(ROWS)},
        {"input_ids": [list(row) for row in ROWS.numpy()], "attention_mask": [[1, 1, 1]] * 6},
        {"input_ids": [*ROWS[:5].tolist(), [15, 16], [17]]},
        [*ROWS.tolist(), []],
        {"input_ids": ROWS.numpy()[::-1], "attention_mask": np.ones((6, 3), ">i8")[::-1]},
    ],
    ids=str,
)
def test_integers_of_any_library(tokens: Any) -> None:
    options = {"context": 3} if not isinstance(tokens, dict) else {}
    assert served(tokens, **options) == NUMBERS


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (["abc", None, "def"], TypeError, r"`tokens\[1\]` must be a text, got None. Remove rows"),
        ([None, "abc"], TypeError, r"`tokens\[0\]` must be a text, got None"),
        ([None, None], TypeError, r"`tokens\[0\]` must be a text, got None"),
        (["abc", float("nan")], TypeError, r"`tokens\[1\]` must be a text, got nan of type float. Remove rows"),
        (["abc", 3], TypeError, r"`tokens\[0\]` must be an integer token id like the other items, got 'abc'"),
        (["abc", b"def"], TypeError, r"`tokens\[1\]` must be a text, got b'def' of type bytes. Decode"),
        ([b"abc"], TypeError, r"`tokens\[0\]` must be a text, got b'abc' of type bytes. Decode"),
        (["abc", [1, 2]], TypeError, r"`tokens\[1\]` must be a text, got \[1, 2\] of type list. Pass only texts"),
        ([[1, 2], "abc"], TypeError, r"`tokens\[0\]` must be a text, got \[1, 2\]"),
        (
            [["abc", "def"]],
            TypeError,
            r"`tokens\[0\]` must contain integer token ids, got \['abc', 'def'\] of type list",
        ),
        (["abc", ["d", "e"]], TypeError, r"`tokens\[1\]`.*one text per item"),
        ([[1, 2], None], TypeError, r"`tokens\[1\]` must be token ids like the other items, got None"),
        ([1, 2, None], TypeError, r"`tokens\[2\]` must be an integer token id like the other items, got None"),
        ([1, 2.0], TypeError, r"`tokens\[1\]` must be an integer token id like the other items, got 2.0 of type float"),
        ([{"text": "abc"}, {"text": None}], TypeError, r"`tokens\[1\]`, column 'text', must be a text, got None"),
        ([{"text": "abc"}, {"body": "d"}], ValueError, r"a column of `tokens\[1\]`, one of \['body'\], got 'text'"),
        ([{"text": [{"role": "user"}]}], TypeError, r"`tokens\[0\]`, column 'text'.*apply_chat_template"),
        (
            [{"input_ids": [1]}, {"input_ids": None}],
            TypeError,
            r"`tokens\[1\]` must contain integer token ids, got None",
        ),
        ({"a", "b"}, TypeError, "must be ordered, got a set. Convert it"),
        (iter([1, 2, 3]), ValueError, r"`tokens\[0\]` must be a row .* Put the ids of a row in a list"),
        ([(torch.ones(3).int(), torch.ones(3).int())], TypeError, "a mapping with `input_ids` and `attention_mask`"),
        ([["a"], [1.5]], TypeError, r"`tokens\[0\]` must contain integer token ids"),
        ({"input_ids": [["a"]]}, TypeError, r"`tokens\[0\]` must contain integer token ids, got \['a'\]"),
        ({"input_ids": None}, TypeError, r"`tokens\['input_ids'\]` must be token ids, got None"),
        (
            {"input_ids": [[1], [1, 2]], "attention_mask": [[1]]},
            ValueError,
            "a row for each of 2 rows of tokens, got 1",
        ),
        (torch.ones(2, 3), TypeError, "Its values are integers: convert it to an integer type first"),
        (torch.rand(2, 3, 8, 8), TypeError, r"Capture images .*`site.capture\(batch\)`"),
        (torch.ones(2, 3) > 0, TypeError, "Pass a mask together with the ids, as `attention_mask`"),
        (
            torch.tensor([[1, 2], [3, 5000]]),
            ValueError,
            "to 5000; the first other id is 5000 in row 1. Check that the tokens",
        ),
        ([[1, 2], [3], [-100, 1]], ValueError, "the first other id is -100 in row 2. -100 marks labels"),
        ({"a": {"text": "abc"}}, TypeError, r"must have a column `input_ids` or `text`, got the columns \['a'\]"),
    ],
)
def test_errors_name_the_row(tokens: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(ActivationStream(site(), tokens, tokenizer=Letters(), context=None, model_batch_size=1))


def test_rows_are_named_by_their_number_in_the_data_not_in_the_pass() -> None:
    texts = [*["abc"] * 50, None, *["abc"] * 50]
    data = [{"input_ids": [1, 2, 3]}] * 40 + [{"input_ids": [1, 5000, 3]}] + [{"input_ids": [1, 2, 3]}] * 40
    for seed in range(3):
        with pytest.raises(ValueError, match="the first other id is 5000 in row 40"):
            list(ActivationStream(site(), data, seed=seed))
        with pytest.raises(TypeError, match=r"`tokens\[50\]`"):
            list(ActivationStream(site(), Streamed(texts), seed=seed, tokenizer=Letters()))


def test_a_text_column_of_data_without_columns_raises() -> None:
    for data in (TEXTS, iter(TEXTS), np.array(TEXTS), ROWS, [1, 2]):
        with pytest.raises(ValueError, match="`text_column` must be omitted if `tokens` has no columns"):
            list(ActivationStream(site(), data, tokenizer=Letters(), text_column="story"))


class Positioned(Counted):
    """A model of eight positions."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"max_position_embeddings": 8})()


def test_rows_longer_than_the_models_positions_raise() -> None:
    at = site(Positioned())
    long = torch.arange(40).view(4, 10)
    with pytest.raises(
        ValueError, match="Rows of `tokens` must have at most 8 tokens, the maximum length of the model, got 10"
    ):
        ActivationStream(at, long)
    with pytest.raises(
        ValueError, match=r"`tokens\[1\]` must have at most 8 .* got 10. Split longer rows with context=8"
    ):
        list(ActivationStream(at, [[1, 2], list(range(10))]))
    with pytest.raises(ValueError, match="`context` must have at most 8 tokens"):
        ActivationStream(at, ["abc"], tokenizer=Letters(), context=9)
    cut = ActivationStream(at, [list(range(10))], context=8)
    assert sorted(token for batch in cut for token in ids(batch)) == list(range(10))
    for whole in (long.flatten(), [chr(97 + n % 26) * 10 for n in range(4)]):
        # Without `context`, rows fit the model.
        stream = ActivationStream(at, whole, tokenizer=Headless(), batch_size=4)
        assert sum(batch.n_tokens for batch in stream) == 40


def test_learned_positions_behind_a_padding_index_are_fewer() -> None:
    transformers = pytest.importorskip("transformers")
    from sparsedict.sites._limits import longest_row

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    roberta = transformers.RobertaConfig(vocab_size=20, max_position_embeddings=16, pad_token_id=1, **size)
    model = transformers.RobertaForMaskedLM(roberta).eval()
    assert longest_row(model) == 14
    model(torch.full((1, 14), 3))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, 15), 3))
    assert longest_row(torch.nn.Linear(2, 2)) is None


def test_pack_takes_the_same_forms_and_rejects_the_same() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"story": TEXTS})
    assert pack(frame, Headless(), context=7, text_column="story").tolist() == [LETTERS]
    with pytest.raises(TypeError, match=r"`texts` must be .*got str. Wrap it in a list"):
        pack("abc", Headless(), context=2)
    with pytest.raises(TypeError, match=r"`texts\[1\]` must be a text, got None"):
        pack(["abc", None], Headless(), context=2)
    with pytest.raises(TypeError, match="`texts` must be texts, got token ids in a Tensor"):
        pack(ROWS, Headless(), context=2)
    with pytest.raises(TypeError, match=r"`texts\[0\]` must be a text, got \[1, 2\]"):
        pack([[1, 2]], Headless(), context=2)


def test_analyses_reject_the_same_ids_and_rows() -> None:
    dictionary = SparseAutoencoder(3, 8, activation=TopK(2), decoder_norm=UnitNorm())
    at = site(Positioned())
    for tokens in (
        torch.tensor([[1, 2], [3, 5000]]),
        [[1, 2], [3, 5000]],
        {"input_ids": torch.tensor([[1, 2], [3, 5000]])},
    ):
        with pytest.raises(ValueError, match="the first other id is 5000 in row 1"):
            top_examples(at, dictionary, tokens)
    with pytest.raises(ValueError, match="Rows of `tokens` must have at most 8 tokens"):
        top_examples(at, dictionary, torch.zeros(2, 9, dtype=torch.int64))


@pytest.mark.as_installed
@pytest.mark.parametrize("data", [TEXTS, ROWS.tolist(), [{"input_ids": [1, 2]}], [{"text": "abc"}]], ids=str)
def test_tokens_given_for_activations_are_sent_to_a_stream(data: Any) -> None:
    with pytest.raises(TypeError, match=r"Pass tokens and texts to `ActivationStream\(site, ...\)`"):
        as_batches(data, batch_size=4)


def test_tables_given_for_activations() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"got a DataFrame. Pass `data.to_numpy\(\)`"):
        as_batches(pandas.DataFrame(np.ones((3, 2))))
