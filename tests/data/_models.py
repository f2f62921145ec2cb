"""A model whose activations tell which token they belong to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsedict.batches import Activations
from sparsedict.sites import Site


class Counted(nn.Module):
    """Embeds each id as itself, and counts the positions that it is run on."""

    def __init__(self, n_vocabulary: int = 4096, width: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_vocabulary, width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, 2)
        self.n_positions = 0
        with torch.no_grad():
            self.embed.weight[:, 0] = torch.arange(n_vocabulary)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.n_positions += input_ids.numel()
        return self.second(self.first(self.embed(input_ids)))


def site(model: nn.Module | None = None, path: str = "first", **options: object) -> Site:
    model = Counted() if model is None else model
    made = Site(model, path, **options)  # type: ignore[arg-type]
    # The first capture of a site runs the model once more, to see how often it calls the module. One of a single
    # sequence shows that sequences are the first axis, which square batches don't.
    made.capture(torch.zeros((1, 2), dtype=torch.int64))
    if isinstance(model, Counted):
        model.n_positions = 0
    return made


def ids(batch: object) -> list[int]:
    """Token ids of a batch, from its activations."""
    assert isinstance(batch, Activations)
    return batch.inputs[:, 0].round().int().tolist()


def unique(n_sequences: int, context: int) -> Tensor:
    """Tokens of which each occurs once."""
    return torch.arange(n_sequences * context).view(n_sequences, context)
