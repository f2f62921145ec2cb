"""Training from tokens for each library, with its own activation store and training loop."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor

from benchmarks.case import Kind
from benchmarks.contenders import Contender

Source = Literal["embedded", "stories"]
Reconstruct = Callable[[Tensor], Tensor]
Run = Callable[[], Reconstruct]

BOS = {"embedded": 0, "stories": 1}
CONTEXT = 256
HELD_OUT = 100_000

BUFFER = 65_536
"""Tokens that each store keeps and shuffles: the libraries' own numbers differ, and are made for longer runs."""


@dataclass(frozen=True)
class Task:
    """A task for all libraries: a TopK dictionary of one MLP.

    Args:
        source: The embedded model, or the TinyStories model of ``SPARSEDICT_TEST_DATA``.
        kind: An autoencoder of the MLP's output, or a distiller.
        layer: Layer of the MLP.
        n_latents: Number of latents.
        k: Number of active latents per token.
        batch_size: Number of tokens in a step.
        n_tokens: Total number of training tokens.
        n_held_out: Number of held-out tokens.
        device: Device of model and dictionary.
        seed: Seed of weights and shuffles.
    """

    source: Source
    kind: Kind
    layer: int
    n_latents: int
    k: int
    batch_size: int
    n_tokens: int
    n_held_out: int
    device: str
    seed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.source} model, layer {self.layer}, {self.kind}, {self.n_latents:,} latents, k {self.k}, "
            f"batches of {self.batch_size:,}, {self.n_tokens:,} tokens ({self.n_steps:,} steps)"
        )

    @property
    def n_steps(self) -> int:
        return self.n_tokens // self.batch_size

    @property
    def bos(self) -> int:
        return BOS[self.source]

    @property
    def path(self) -> str:
        """The path of the MLP in the Hugging Face model."""
        return f"transformer.h.{self.layer}.mlp" if self.source == "embedded" else f"model.layers.{self.layer}.mlp"


@dataclass(frozen=True)
class Loaded:
    """The model with sequences ``[n, 256]`` to train on, each begun by BOS, and others to evaluate on."""

    model: Any
    tokens: Tensor
    held_out: Tensor

    def n_in_vocabulary(self) -> int:
        return self.model.config.vocab_size

    def sequences(self, n: int) -> Tensor:
        """Returns ``n`` training sequences, repeated if there are fewer."""
        return self.tokens.repeat(-(-n // len(self.tokens)), 1)[:n]


def load(task: Task) -> Loaded:
    """Loads the model and its tokens."""
    if task.source == "embedded":
        from sparsedict import zoo

        model: Any = zoo.load_model()
        # BOS takes a place in each sequence and isn't trained on.
        wanted = task.n_tokens * CONTEXT // (CONTEXT - 1) + 32 * CONTEXT
        held_out = zoo.tokens("evaluation", n_tokens=task.n_held_out)
        return Loaded(model.to(task.device), zoo.tokens("train", n_tokens=wanted), held_out)
    import numpy as np
    from transformers import LlamaForCausalLM

    folder = Path(os.environ["SPARSEDICT_TEST_DATA"])
    model: Any = LlamaForCausalLM.from_pretrained(folder / "stories260K")
    model = model.eval().to(task.device)
    tokens = torch.from_numpy(np.load(folder / "stories-train-tokens.npy").astype(np.int64))
    return Loaded(model, _rows(tokens[:-HELD_OUT]), _rows(tokens[-HELD_OUT:])[: task.n_held_out // CONTEXT])


def _rows(tokens: Tensor) -> Tensor:
    width = CONTEXT - 1
    rows = tokens[: len(tokens) // width * width].view(-1, width)
    return torch.nn.functional.pad(rows, (1, 0), value=BOS["stories"])


def has_stories() -> bool:
    return bool(os.environ.get("SPARSEDICT_TEST_DATA"))


class Harvest(Protocol):
    """The interface of the modules."""

    def variants(self, task: Task) -> list[tuple[str, ...]]:
        """Returns the variants with which this library can run the task; empty if it can't."""
        ...

    def prepare(self, task: Task, loaded: Loaded, options: tuple[str, ...]) -> Run:
        """Converts tokens for the library. Returns a function that harvests, trains and returns the reconstruction."""
        ...


def harvest(contender: Contender) -> Harvest:
    """Returns a contender's module."""
    return cast(Harvest, importlib.import_module(f"benchmarks.harvests._{contender.module}"))


def number_tokenizer(n_in_vocabulary: int, bos: int) -> Any:
    """Returns a tokenizer whose text is token numbers with blanks between: for stores that take text only."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({str(number): number for number in range(n_in_vocabulary)}, unk_token=str(bos)))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    special = str(bos)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=special, bos_token=special, eos_token=special, padding_side="right"
    )
