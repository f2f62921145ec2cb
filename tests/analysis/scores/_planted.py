"""A text of random words with latents whose rules are known, and a language model that knows them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsedict.analysis.scores import TokenLatents

WORDS = ["the", "def", "Cat", "12", "(", "_x", "running", "jumping", "345", "IF", "self", "dog", "\n", " ", ")", "'"]
N_WORDS = 48


def strings(ids: Sequence[int]) -> list[str]:
    """The string of each token. Tokens after the first sixteen are words such as ``word20``."""
    return [f" {WORDS[i]}" if i < len(WORDS) else f" word{i}" for i in ids]


def words(n_sequences: int = 96, n_positions: int = 48, seed: int = 0) -> Tensor:
    return torch.randint(N_WORDS, (n_sequences, n_positions), generator=torch.Generator().manual_seed(seed))


def before(tokens: Tensor, n: int = 1) -> Tensor:
    """The token ``n`` places before each token, -1 at the beginning."""
    return torch.nn.functional.pad(tokens[:, : tokens.shape[1] - n], (n, 0), value=-1)


def planted(fires: Tensor, tokens: Tensor, *, kept: Tensor | None = None, seed: int = 0) -> TokenLatents:
    """Latents that fire where a mask ``[n_sequences, n_positions, n_latents]`` is true, with random strength."""
    strength = 0.5 + torch.rand(fires.shape, generator=torch.Generator().manual_seed(seed))
    return TokenLatents.from_dense(fires * strength, tokens, kept=kept, strings=strings)


def planted_text(seed: int = 0) -> TokenLatents:
    """Twelve latents that fire on one word each, and one that never fires."""
    tokens = words(seed=seed)
    fires = torch.stack([tokens == 20 + i for i in range(12)] + [torch.zeros_like(tokens) == 1], -1)
    return planted(fires, tokens)


def states(text: TokenLatents, positions: Tensor) -> Tensor:
    """A representation: a fixed random direction for each word, with noise."""
    random = torch.Generator().manual_seed(5)
    directions = torch.randn(N_WORDS, 24, generator=random)
    noise = torch.randn(text.tokens.numel(), 24, generator=random)
    return directions[text.tokens.flatten()[positions]] + 0.3 * noise[positions]


def oracle(prompts: list[str]) -> list[str]:
    """A language model that explains a latent by the word that is marked most often, and finds that word."""
    return [_explained(prompt) if "EXPLANATION:" in prompt else _judged(prompt) for prompt in prompts]


def _explained(prompt: str) -> str:
    marked = re.findall(r"<<( word\d+)>>", prompt) or [" word0"]
    return f"Let me see.\nEXPLANATION: the word{max(sorted(set(marked)), key=marked.count)}"


def _judged(prompt: str) -> str:
    word = re.search(r"the word( \S+)", prompt)
    assert word is not None
    lines = re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE)
    wanted = f"<<{word[1]}>>" if "marked tokens" in prompt else f"{word[1]} "
    return f"These: [{', '.join(number for number, line in lines if wanted in line + ' ')}]"
