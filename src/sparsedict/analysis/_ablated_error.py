"""`ablated_error`, the reconstruction error with groups of latents ablated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import blocks, evaluation_mode
from sparsedict.analysis._firing import latent_means
from sparsedict.analysis._latent_types import LatentTypes
from sparsedict.display import Displayed, shown
from sparsedict.interventions import Ablation, Intervention
from sparsedict.metrics import RunningError
from sparsedict.types import Role


@dataclass(frozen=True, repr=False)
class ReconstructionError(Displayed):
    """The error of a reconstruction.

    Attributes:
        squared_error: Squared error, summed over ``d_out``, mean over tokens.
        fvu: Fraction of variance unexplained, over all tokens.
    """

    squared_error: float
    fvu: float


@dataclass(frozen=True, repr=False)
class AblatedError(Displayed):
    """The reconstruction error of a dictionary without and with ablations.

    Attributes:
        full: Error without ablation.
        ablated: Error with each ablation, by name.
        n_tokens: Number of tokens.
    """

    full: ReconstructionError
    ablated: Mapping[str, ReconstructionError]
    n_tokens: int

    @property
    def simulators(self) -> ReconstructionError:
        """The error with the simulators ablated."""
        return self.ablated["simulators"]

    @property
    def sparse(self) -> ReconstructionError:
        """The error with the sparse latents ablated."""
        return self.ablated["sparse"]

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns a heading, and the name, squared error and FVU of each reconstruction."""
        rows = [
            (name, shown(error.squared_error, ".4g"), shown(error.fvu, ".4f"))
            for name, error in (("full", self.full), *((f"without {name}", e) for name, e in self.ablated.items()))
        ]
        return [("", "squared error", "FVU"), *rows]

    def __str__(self) -> str:
        rows = self.display_rows()
        width = max(len(name) for name, *_ in rows)
        return "\n".join(f"{name:{width}}  {error:>13}  {fvu:>7}" for name, error, fvu in rows)


def ablated_error(
    dictionary: Any,
    data: Any,
    ablations: LatentTypes | Ablation | Mapping[str, Bool[Tensor, " n_latents"] | Intervention],
    means: Float[Tensor, " n_latents"] | None = None,
    *,
    n_tokens: int | None = None,
    reads: Role | None = None,
    writes: Role | None = None,
) -> AblatedError:
    """Measures the reconstruction error without ablation, and with groups of latents fixed at their means.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode`` and ``decode``.
        data: An `ActivationStream`, a tuple of inputs and outputs, or any other data that ``fit`` accepts.
        ablations: `LatentTypes`, to ablate first the simulators and then the sparse latents; a mapping of names to
            masks ``[n_latents]`` or functions of dense latents; or an `Ablation`, which is named ``"ablation"``.
        means: Values of ablated latents, ``[n_latents]``. By default their means over the same data, which need an
            additional pass. Functions and an `Ablation` don't use this argument.
        n_tokens: Number of tokens to use, at most one pass over the data. One pass by default.
        reads: The activations that an object of another library reads.
        writes: The activations that it writes. By default the outputs, or the neurons if it reads neurons.

    Raises:
        ValueError: If a mask has the wrong shape, the data is empty, or ``means`` is left out for data that can be read
            only once.

    Source: figure 5 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> import torch, sparsedict as sd
        >>> sae = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
        >>> error = ablated_error(sae, torch.randn(100, 4), {"none": torch.zeros(8, dtype=torch.bool)})
        >>> error.ablated["none"] == error.full
        True
    """
    adapter = Adapter(dictionary, reads, writes)
    named = _named(ablations)
    if means is None and any(isinstance(value, Tensor) for value in named.values()):
        if _read_once(data):
            raise ValueError(
                f"`means` must be passed for a {type(data).__name__}, which can be read only once. Compute them with "
                "`latent_means` first."
            )
        means = latent_means(dictionary, data, n_tokens=n_tokens, reads=reads)
    changes = {name: Ablation(v, means) if isinstance(v, Tensor) else v for name, v in named.items()}
    full, errors = RunningError("data"), {name: RunningError("data") for name in changes}
    with evaluation_mode(dictionary):
        for inputs, batch in blocks(adapter, data, n_tokens, targets=True):
            targets = adapter.targets(batch).to(inputs.device)
            latents = adapter.encode(inputs)
            full.update_(adapter.reconstruct(latents, inputs), targets)
            for name, change in changes.items():
                errors[name].update_(adapter.reconstruct(change(latents), inputs), targets)
    return AblatedError(_read(full), {name: _read(error) for name, error in errors.items()}, full.n_tokens)


def _read_once(data: Any) -> bool:
    """Returns whether the data is an iterator, which can't be restarted."""
    return hasattr(data, "__next__")


def _named(ablations: Any) -> Mapping[str, Any]:
    if isinstance(ablations, LatentTypes):
        return {"simulators": ablations.simulators, "sparse": ablations.sparse}
    if isinstance(ablations, Mapping):
        return ablations
    if callable(ablations):
        return {"ablation": ablations}
    raise TypeError(
        "`ablations` must be LatentTypes, an Ablation, or a mapping of names to masks or functions of latents, got "
        f"{type(ablations).__name__}."
    )


def _read(error: RunningError) -> ReconstructionError:
    return ReconstructionError(error.squared_error, error.fvu)
