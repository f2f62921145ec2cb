"""A custom activation, penalty and decoder norm, without changes to the package."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import sparsedict as sd


@dataclass(frozen=True)
class ScaledReLU(sd.Activation):
    """``gain * relu(p)``, with a learned gain per latent."""

    initial_gain: float = 1.0

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        return {"gain": nn.Parameter(torch.full((n_latents,), self.initial_gain))}

    def values(self, pre: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        return pre.relu() * state["gain"]

    def support(self, pre: Tensor, state: Mapping[str, Tensor], *, training: bool) -> sd.Support:
        return sd.Support.from_mask(pre > 0)


@dataclass(frozen=True)
class LogPenalty(sd.Penalty):
    """``coefficient * sum log(1 + a / scale)``, mean over tokens."""

    coefficient: float
    scale: float = 1.0

    def __call__(self, out: sd.ForwardPass) -> Tensor:
        return self.coefficient * (out.values.abs() / self.scale).log1p().sum() / out.n_tokens


@dataclass(frozen=True)
class MaxEntry(sd.DecoderNorm):
    """No entry of a decoder row is larger than ``bound``."""

    bound: float

    def constrain_(self, decoder: Tensor) -> None:
        with torch.no_grad():
            decoder.clamp_(-self.bound, self.bound)


truth = sd.data.SyntheticFeatures(d=32, n_features=96, l0=4, seed=0)
batch, _ = truth.sample(50_000, seed=1)
transcoder = sd.SparseDistiller(32, 32, 128, activation=ScaledReLU(), decoder_norm=MaxEntry(0.5))
history = sd.fit(transcoder, batch, n_tokens=300_000, batch_size=512, penalties=[LogPenalty(0.3)], progress=False)
print(history)

transcoder.save("transcoder")
same = sd.load("transcoder", parts=[ScaledReLU, MaxEntry])
print("equal after loading:", torch.equal(same.encode(batch.inputs[:8]), transcoder.encode(batch.inputs[:8])))
