"""A tiny language model, and dictionaries with the interfaces of other libraries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sparsedict as sd

VOCABULARY, WIDTH, HIDDEN = 11, 6, 14


class LanguageModel(nn.Module):
    """Each token is predicted from a running mean of those before it, through one MLP."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, HIDDEN), activation or nn.ReLU(), nn.Linear(HIDDEN, WIDTH))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(input_ids)
        weights = torch.ones_like(x) if attention_mask is None else attention_mask[..., None].to(x).expand_as(x)
        x = (x * weights).cumsum(1) / weights.cumsum(1).clamp(min=1)
        return self.head(self.dropout(x + self.mlp(x)))


class Foreign:
    """A dictionary of another library: no base class, no roles, transposed weights under other names."""

    def __init__(self, dictionary: sd.Dictionary) -> None:
        self.W_enc, self.W_dec = dictionary.encoder.detach().T, dictionary.decoder.detach()
        self.b_enc, self.b_dec = dictionary.encoder_bias.detach(), dictionary.decoder_bias.detach()

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.W_dec + self.b_dec


@torch.no_grad()
def tokens(n_sequences: int = 12, n_positions: int = 9, seed: int = 1) -> Tensor:
    """Text of the model's own, without token 0, so that the model's loss rises without its MLP."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (n_sequences, n_positions), generator=generator)
    model = LanguageModel()
    for position in range(1, n_positions):
        logits = 2 * model(ids[:, :position])[:, -1, 1:]
        ids[:, position] = 1 + torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    return ids


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distiller(
    n_latents: int = 20, activation: sd.Activation | None = None, seed: int = 0, **options
) -> sd.SparseDistiller:
    generator = torch.Generator().manual_seed(seed)
    student = sd.SparseDistiller(
        WIDTH,
        WIDTH,
        n_latents,
        activation=activation or sd.ReLU(),
        decoder_norm=sd.UnitNorm(),
        generator=generator,
        **options,
    )
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return student


def autoencoder(n_latents: int = 20, seed: int = 0, **options) -> sd.SparseAutoencoder:
    options = {"activation": sd.TopK(4), "decoder_norm": sd.UnitNorm(), **options}
    return sd.SparseAutoencoder(WIDTH, n_latents, generator=torch.Generator().manual_seed(seed), **options)
