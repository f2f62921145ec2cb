"""What the reconstruction loses without one type of latents."""

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
    """How far a reconstruction is from its target.

    Attributes:
        squared_error: Summed over ``d_out``, mean over tokens.
        fvu: Fraction of variance unexplained, over all tokens.
    """

    squared_error: float
    fvu: float


@dataclass(frozen=True, repr=False)
class AblatedError(Displayed):
    """Reconstruction error of a dictionary as it is, and under ablations.

    Attributes:
        full: As it is.
        ablated: Under each ablation, by name.
        n_tokens: Tokens seen.
    """

    full: ReconstructionError
    ablated: Mapping[str, ReconstructionError]
    n_tokens: int

    @property
    def simulators(self) -> ReconstructionError:
        """With the simulators ablated."""
        return self.ablated["simulators"]

    @property
    def sparse(self) -> ReconstructionError:
        """With the sparse latents ablated."""
        return self.ablated["sparse"]

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name, the squared error and the FVU of each reconstruction, below their headings."""
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
    """Measures the reconstruction error as it is and with chosen latents held at their means.

    Args:
        dictionary: A `Dictionary`, or any object with ``encode`` and ``decode``.
        data: An `ActivationStream`, a tuple of inputs and outputs, or any other form that ``fit`` takes.
        ablations: `LatentTypes`, of which simulators and sparse latents are ablated in turn (dead ones never); masks
            ``[n_latents]`` or functions of dense latents by name; or one `Ablation`, which is named ``"ablation"``.
        means: What to hold ablated latents at, ``[n_latents]``; by default their means over the same data, for which
            a pass of its own is made. Functions and an `Ablation` bring their own.
        n_tokens: Tokens to use; by default, and at most, one pass over the data.
        reads: Which activations another library's object takes.
        writes: Which it gives; by default the outputs, or the neurons' for one that reads these.

    Raises:
        ValueError: If a mask doesn't fit, the data is empty, or it can be read once only and means are wanted.

    Source: figure 5 of slavachalnev, "Sparse MLP Distillation", LessWrong, 2024,
    https://www.lesswrong.com/posts/MXabwqMwo3rkGqEW8/sparse-mlp-distillation.

    Example:
        >>> import torch, sparsedict as sd
        >>> coder = sd.SparseAutoencoder(4, 8, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
        >>> error = ablated_error(coder, torch.randn(100, 4), {"none": torch.zeros(8, dtype=torch.bool)})
        >>> error.ablated["none"] == error.full
        True
    """
    adapter = Adapter(dictionary, reads, writes)
    named = _named(ablations)
    if means is None and any(isinstance(value, Tensor) for value in named.values()):
        if _read_once(data):
            raise ValueError(
                f"`means` must be given for a {type(data).__name__}, which can be read only once: see `latent_means`."
            )
        means = latent_means(dictionary, data, n_tokens=n_tokens, reads=reads)
    changes = {name: Ablation(v, means) if isinstance(v, Tensor) else v for name, v in named.items()}
    full, errors = RunningError(), {name: RunningError() for name in changes}
    with evaluation_mode(dictionary):
        for inputs, batch in blocks(adapter, data, n_tokens, targets=True):
            targets = adapter.targets(batch).to(inputs.device)
            latents = adapter.encode(inputs)
            full.update_(adapter.reconstruct(latents, inputs), targets)
            for name, change in changes.items():
                errors[name].update_(adapter.reconstruct(change(latents), inputs), targets)
    return AblatedError(_read(full), {name: _read(error) for name, error in errors.items()}, full.n_tokens)


def _read_once(data: Any) -> bool:
    """Whether data is an iterator, which can't be begun anew."""
    return hasattr(data, "__next__")


def _named(ablations: Any) -> Mapping[str, Any]:
    if isinstance(ablations, LatentTypes):
        return {"simulators": ablations.simulators, "sparse": ablations.sparse}
    if isinstance(ablations, Mapping):
        return ablations
    if callable(ablations):
        return {"ablation": ablations}
    raise TypeError(
        "`ablations` must be LatentTypes, an Ablation, or masks or functions of latents by name, got "
        f"{type(ablations).__name__}."
    )


def _read(error: RunningError) -> ReconstructionError:
    return ReconstructionError(error.squared_error, error.fvu)
