"""Messages of the library name options on the command line."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest
import torch

import sparsedict as sd
from sparsedict.cli._errors import message_of, translate
from sparsedict.cli._tokenizer import set_mask_token


def test_only_options_of_the_command_are_named() -> None:
    error = ValueError("`path` must be a folder, `model` too, and `k` an integer.")
    named = message_of(error, argparse.Namespace(out="x", model="y", k=1))
    assert named == "--out must be a folder, MODEL too, and --k an integer."
    assert message_of(error, argparse.Namespace(run="x")) == str(error)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("The whole MLP is reads='a.fc1:in', writes='a.fc2:out'.", "The whole MLP is 'a.fc1..a.fc2'."),
        ("use its module: `Site(model, 'a.b')` sees", "use its module: --site a.b sees"),
        ("(use `reads=` and `writes=` to exclude", "(use --site READS..WRITES to exclude"),
        ("`neurons` needs a single MLP", "The search for neurons needs a single MLP"),
        ("unknown: `neurons` looked for", "unknown: the search for neurons looked for"),
        (
            "Pass its neurons explicitly: `Site(..., neurons=...)`",
            "In Python, pass its neurons explicitly: `Site(..., ",
        ),
    ],
)
def test_forms_of_python_are_translated(message: str, words: str) -> None:
    assert translate(message, {}).startswith(words)


def test_the_loss_of_a_masked_model_uses_the_mask_token_of_its_tokenizer() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=32, initializer_range=1.0, **sizes)
    model = transformers.BertForMaskedLM(config).eval()
    site = sd.Site(model, reads="bert.encoder.layer.0.intermediate:in", writes="bert.encoder.layer.0.output.dense:out")
    sae = sd.SparseAutoencoder(8, 16, activation=sd.TopK(2), decoder_norm=sd.UnitNorm())
    tokens = torch.randint(4, 32, (4, 16))
    without = sd.evaluate(site, sae, tokens)
    assert "set `mask_token_id` in its configuration" in str(without.note)
    set_mask_token(model, SimpleNamespace(mask_token_id=None))
    set_mask_token(model, None)
    assert sd.evaluate(site, sae, tokens).losses.n_tokens == 0
    set_mask_token(model, SimpleNamespace(mask_token_id=3))
    assert sd.evaluate(site, sae, tokens).losses.n_tokens > 0
