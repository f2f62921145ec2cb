"""The recipe of the documentation for a local model of Hugging Face, with a tiny untrained one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsedict.analysis.scores import DetectionScore, Explainer, plan
from sparsedict.analysis.scores._answers import read_numbers

from ._planted import planted_text

PAGE = Path(__file__).parents[3] / "docs" / "scores.md"
NAME = '"Qwen/Qwen3-4B-Instruct-2507"'
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"


def recipe() -> str:
    """Returns the code of the recipe."""
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (found,) = [block for block in blocks if "transformers import pipeline" in block]
    return found


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained Qwen3 with a chat template, whose tokens are bytes."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {text: index for index, text in enumerate(["<pad>", "<end>", *alphabet])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(words, []))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    names = {"pad_token": "<pad>", "eos_token": "<end>", "padding_side": "left"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=TEMPLATE, **names)
    config = transformers.Qwen3Config(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("local")
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ask(model_folder: Path) -> Callable[[list[str]], list[str]]:
    """The function of the recipe, with the local folder for the model's name, on the CPU, and short answers."""
    code = recipe()
    for old, new in (
        (NAME, repr(str(model_folder))),
        ('device_map="auto"', 'device="cpu"'),
        ("max_new_tokens=200", "max_new_tokens=4"),
    ):
        assert code.count(old) == 1
        code = code.replace(old, new)
    space: dict[str, Any] = {}
    exec(code, space)
    return space["ask"]


def test_the_recipe_answers_each_prompt_by_itself(ask: Callable[[list[str]], list[str]]) -> None:
    prompts = ["short", "a prompt that is longer than the first", "third"]
    answers = ask(prompts)
    assert len(answers) == len(prompts)
    assert all(isinstance(answer, str) and answer for answer in answers)
    # The answer doesn't repeat the prompt.
    assert not any(prompt in answer for prompt, answer in zip(prompts, answers, strict=True))
    # A batch, whose shorter prompts are padded, has the answers of single prompts.
    assert answers == [ask([prompt])[0] for prompt in prompts]


def test_scores_take_the_recipe(ask: Callable[[list[str]], list[str]]) -> None:
    text = planted_text().latents(torch.arange(2))
    heard: list[str] = []

    def listening(prompts: list[str]) -> list[str]:
        found = ask(prompts)
        heard.extend(found)
        return found

    assert Explainer(listening)(text) == (None, None)  # an untrained model explains nothing
    assert len(heard) == 2
    heard.clear()
    score = DetectionScore(listening, explanations=("a word", "another word"), n_questions=2)
    found = score(text)
    assert len(heard) == found.notes["n_questions"] == plan(text, score).n_prompts == 4
    n_excerpts = score.n_excerpts
    assert found.notes["n_unread"] == sum(read_numbers(answer, n_excerpts) is None for answer in heard)
    assert found.scored.tolist() == (found.columns["unread answers"] < 2).tolist()
