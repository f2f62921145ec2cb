"""Sites in a custom model, and in a Hugging Face GPT-2 that is constructed from a configuration."""

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import sparsedict as sd

torch.manual_seed(0)


class Recurrent(nn.Module):
    """A GRU followed by an MLP whose activation function is called in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 24)
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.up, self.down = nn.Linear(24, 96), nn.Linear(96, 24)
        self.head = nn.Linear(24, 100)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.gru(self.embedding(ids))[0]
        return self.head(x + self.down(torch.nn.functional.silu(self.up(x))))


def check(site: sd.Site, tokens: Tensor) -> None:
    """Captures activations, replaces the MLP by its neurons, and evaluates the distiller that equals the MLP."""
    captured = site.capture(tokens, neurons=True)
    print(site, site.neurons, "captured", tuple(captured.outputs.shape))
    with torch.no_grad():
        expected = site.logits(tokens)
        with site.replaced(site.neurons):
            print("  largest change of a logit:", float((site.logits(tokens) - expected).abs().max()))
    exact = sd.SparseDistiller.from_neurons(site.neurons)
    print("  fraction of variance unexplained:", sd.evaluate(site, exact, tokens).fvu)


tokens = torch.randint(2, 100, (64, 32), generator=torch.Generator().manual_seed(0))
# This MLP isn't a single module. The site reads the input of one module and writes the output of another.
check(sd.Site(Recurrent().eval(), reads="up:in", writes="down:out"), tokens)

config = GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
check(sd.Site(GPT2LMHeadModel(config).eval(), "transformer.h.1.mlp"), tokens)

# If a site reads and writes the same point, it is a residual stream. An autoencoder can be trained on it.
model = GPT2LMHeadModel(config).eval()
stream = sd.Site(model, reads="transformer.h.0:out", writes="transformer.h.0:out")
sae = sd.SparseAutoencoder(stream.d_out, 128, activation=sd.TopK(8), decoder_norm=sd.UnitNorm())
data = sd.ActivationStream(stream, tokens, batch_size=256)
print(stream, sd.fit(sae, data, n_tokens=40_000, progress=False))
