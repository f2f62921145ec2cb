"""Loads the embedded model, or one that ``sparsedict.zoo.build`` built, with its tokenizer and text."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from sparsedict import checks
from sparsedict.torch_state import own_defaults, own_state
from sparsedict.zoo._corpus import Split, each_file

if TYPE_CHECKING:
    from transformers import GPTNeoForCausalLM, PreTrainedTokenizerFast

NAME = "stdlib_neo"
BOS = "<|endoftext|>"
FILES_AT_ONCE = 32

Folder = str | os.PathLike[str] | None
"""Folder of a model that ``python -m sparsedict.zoo.build`` wrote; ``None`` for the embedded model."""


def load_model(folder: Folder = None) -> GPTNeoForCausalLM:
    """Loads the embedded model as a Hugging Face model, float32, in evaluation mode.

    It is a GPT-Neo with four layers, ``d_model`` 128, ``d_mlp`` 512 (GELU), vocabulary 4,096 and context 256, trained
    on the Python standard library's source. ``python -m sparsedict.zoo.build`` rebuilds it, and builds smaller models.

    Args:
        folder: Folder of another model that the script built.

    Raises:
        FileNotFoundError: If the folder has no model.
        ImportError: If transformers isn't installed (``pip install 'sparsedict[demo]'``).
    """
    from safetensors.torch import load_file

    with _needs("demo"):
        from transformers import GPTNeoConfig, GPTNeoForCausalLM

    with _opened(folder) as opened:
        config = GPTNeoConfig(**_configuration(opened))
        state = load_file(opened / "model.safetensors")
    with own_state(), own_defaults():
        model = GPTNeoForCausalLM(config)
    keys = model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    model.tie_weights()
    absent = [name for name in keys.missing_keys if not name.endswith(("lm_head.weight", "attn.attention.bias"))]
    if absent or keys.unexpected_keys:
        name = folder or "The embedded model"
        raise RuntimeError(f"{name} is incompatible with the installed transformers: {absent}, {keys.unexpected_keys}.")
    return model.eval()


def load_bridge(*, compatibility_mode: bool = False) -> Any:
    """Loads the embedded model as a ``TransformerBridge`` of TransformerLens.

    Args:
        compatibility_mode: Whether to fold and centre weights, and to name hooks, as ``HookedTransformer`` does.

    Raises:
        ImportError: If transformer_lens isn't installed (``pip install 'sparsedict[lens]'``).
    """
    with _needs("lens"):
        from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(NAME, hf_model=load_model(), tokenizer=load_tokenizer())
    if compatibility_mode:
        bridge.enable_compatibility_mode()
    return bridge


def load_tokenizer(folder: Folder = None) -> PreTrainedTokenizerFast:
    """Loads the byte-level BPE tokenizer of the embedded model, or of a built model. Token 0 is BOS."""
    with _needs("demo"):
        from tokenizers.processors import TemplateProcessing
        from transformers import PreTrainedTokenizerFast

    with _opened(folder) as opened:
        path, name = opened / "tokenizer.json", NAME if folder is None else str(folder)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(path), name_or_path=name, bos_token=BOS, eos_token=BOS, pad_token=BOS, add_bos_token=True
        )
    # transformers 4 ignores `add_bos_token` here. In transformers 5 it would have the same effect.
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    return tokenizer


def tokens(
    split: Split, *, n_tokens: int | None = None, stdlib: Path | None = None, folder: Folder = None
) -> Int[Tensor, "n_sequences n_positions"]:
    """Tokenises one split of the standard library's source into sequences that start with BOS.

    Modules are separated by BOS. Every sequence, of 256 tokens, the model's context, also starts with BOS.

    Args:
        split: ``"train"`` or ``"evaluation"``.
        n_tokens: Largest number of tokens, rounded down to whole sequences; ``None`` for all (about 2.5 million for
            training, 0.2 million for evaluation).
        stdlib: Library folder to read instead of the running interpreter's.
        folder: Folder of another model that the script built, whose tokenizer and context are used.

    Raises:
        FileNotFoundError: If the standard library's source isn't installed.
    """
    with _needs("demo"):
        from tokenizers import Tokenizer

    with _opened(folder) as opened:
        n_context: int = _configuration(opened)["max_position_embeddings"]
        tokenizer = Tokenizer.from_str((opened / "tokenizer.json").read_text(encoding="utf-8"))
    if n_tokens is not None:
        n_tokens = checks.at_least("n_tokens", n_tokens, n_context)
    wanted = math.inf if n_tokens is None else n_tokens
    texts = (file.text for file in each_file(split, stdlib))
    joined: list[int] = []
    while len(joined) < wanted and (batch := list(islice(texts, FILES_AT_ONCE))):
        for item in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            joined += (0, *item.ids)
    width = n_context - 1
    rows = torch.tensor(joined[: len(joined) // width * width], device="cpu").view(-1, width)
    if n_tokens is not None:
        rows = rows[: n_tokens // n_context]
    return torch.nn.functional.pad(rows, (1, 0), value=0)


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """Context for imports of packages of an extra, whose errors name the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f"The embedded model needs {error.name}: pip install 'sparsedict[{extra}]'.") from error


@contextmanager
def _opened(folder: Folder) -> Iterator[Path]:
    if folder is None:
        with as_file(files("sparsedict.zoo") / NAME) as embedded:
            yield embedded
    else:
        yield Path(folder)


def _configuration(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"`folder` must contain a model that `python -m sparsedict.zoo.build --out FOLDER` wrote, but {folder} has "
            "no config.json."
        )
    return json.loads(path.read_text())
