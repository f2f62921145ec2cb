"""`evaluate`, which measures reconstruction, sparsity and loss recovered of a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._blocks import evaluation_mode
from sparsedict.analysis._evaluate_sites import evaluate_sites
from sparsedict.analysis._firing import DeadLatents
from sparsedict.analysis._loss_recovered import captures, conditions
from sparsedict.analysis._measure_losses import LOSS, ModelLoss, RunningMean, losses_or_reason, measure_losses
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.analysis._sites_evaluation import SitesEvaluation, loss_numbers
from sparsedict.analysis._token_batches import Tokens
from sparsedict.batches import Points
from sparsedict.display import Displayed, finite, shown
from sparsedict.latents import firing_counts
from sparsedict.metrics import RunningError, RunningL0
from sparsedict.sites import Site, Sites
from sparsedict.types import Role


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Displayed):
    """The evaluation of a dictionary on tokens that it wasn't trained on.

    Attributes:
        fvu: Fraction of variance unexplained, over all tokens.
        squared_error: Squared error, summed over ``d_out``, mean over tokens.
        l0: Number of non-zero latents, mean over tokens.
        dead: Latents that never fired on these tokens. In contrast, ``dead`` of a training record counts latents that
            haven't fired within the last ``dead_after`` tokens.
        n_tokens: Number of tokens.
        losses: Losses of the model with the MLP replaced by the dictionary. ``None`` if the model has no loss, NaN if
            the loss can't be measured.
        note: Reason why there are no losses, or why a number is NaN.
    """

    fvu: float
    squared_error: float
    l0: float
    dead: DeadLatents
    n_tokens: int
    losses: LossRecovered | None
    note: str | None = None

    @property
    def n_latents(self) -> int:
        return len(self.dead.mask)

    def to_dict(self) -> dict[str, float | int | None]:
        """Returns the numbers by name, for tables and JSON. A missing number is None; ``note`` gives the reason."""
        numbers = {
            "fvu": self.fvu,
            "squared_error": self.squared_error,
            "l0": self.l0,
            "n_latents": self.n_latents,
            "n_dead": self.dead.n_dead,
            "n_tokens": self.n_tokens,
        } | loss_numbers(self.losses)
        return finite(numbers)

    def display_rows(self) -> list[tuple[str, ...]]:
        """Returns the name, value and remark of each number, and the note."""
        return [*self._rows(), *([] if self.note is None else [("note", "", self.note)])]

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("FVU", shown(self.fvu, ".4f"), ""),
            ("L0", f"{self.l0:.1f}", f"of {self.n_latents:,} latents"),
            ("never fired", f"{self.dead.n_dead:,}", f"{self.dead.share:.1%}, on {self.n_tokens:,} tokens"),
        ]
        losses = self.losses
        if losses is not None:
            ablated = ("loss with zero", losses.zero_ablated), ("loss with the mean", losses.mean_ablated)
            rows += [
                ("loss recovered, zero", shown(losses.zero, ".4f"), "1 is lossless, 0 equals zero ablation"),
                ("loss recovered, mean", shown(losses.mean, ".4f"), "relative to mean ablation"),
                *([] if losses.kl is None else [("KL to the model", shown(losses.kl, ".4f"), "nats per token")]),
                ("loss", shown(losses.base, ".4f"), "of the original model"),
                ("loss replaced", shown(losses.replaced, ".4f"), ""),
                *((name, shown(value, ".4f"), "") for name, value in ablated),
            ]
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        names, values = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
        lines = [f"{name:<{names}}  {value:>{values}}  {remark}".rstrip() for name, value, remark in rows]
        if self.note is not None:
            lines.append(f"no losses: {self.note}" if self.losses is None else f"note: {self.note}")
        return "\n".join(lines)


@overload
def evaluate(
    site: Site,
    dictionary: Any,
    tokens: Any,
    *,
    batch_size: int = ...,
    n_tokens: int | None = ...,
    loss: ModelLoss | None = ...,
    mask_token: int | None = ...,
    reads: Role | None = ...,
    writes: Role | None = ...,
) -> Evaluation: ...


@overload
def evaluate(
    site: Mapping[str, Site],
    dictionary: Any,
    tokens: Any,
    *,
    batch_size: int = ...,
    n_tokens: int | None = ...,
    loss: ModelLoss | None = ...,
    mask_token: int | None = ...,
    reads: Points | None = ...,
    writes: Points | None = ...,
) -> SitesEvaluation: ...


def evaluate(
    site: Site | Mapping[str, Site],
    dictionary: Any,
    tokens: Any,
    *,
    batch_size: int = 16,
    n_tokens: int | None = None,
    loss: ModelLoss | None = None,
    mask_token: int | None = None,
    reads: Points | None = None,
    writes: Points | None = None,
) -> Evaluation | SitesEvaluation:
    """Measures reconstruction, sparsity, latents that never fire, and the losses of the model with replaced MLPs.

    For several sites, FVU and L0 are measured for each site, on the activations of the original model. Losses are
    measured with each MLP replaced separately and with all MLPs replaced at the same time. The baselines write zero or
    the mean at the same sites.

    Args:
        site: The site of the MLP, `Sites`, or a mapping of names to sites.
        dictionary: A `Dictionary`, `Neurons`, or any object with ``encode`` and ``decode``. For several sites, a
            mapping of site names to dictionaries, a list, or a dictionary that names its points; see `Sites.replaced`.
        tokens: Ids ``[n_sequences, n_positions]``, a mapping of the model's keyword arguments, or any other form that
            an `ActivationStream` accepts. They should be of text that the dictionary wasn't trained on.
        batch_size: Number of sequences in a forward pass.
        n_tokens: Number of counted positions after which the evaluation stops, rounded up to whole batches. All
            positions by default. With several sites, a position counts if no site excludes it.
        loss: A user-defined loss, see `loss_recovered`.
        mask_token: Id of the mask token of a model that isn't causal, see `loss_recovered`.
        reads: The activations that an object of another library reads.
        writes: The activations that it writes. By default the outputs, or the neurons if it reads neurons.

    Returns:
        An `Evaluation`, or a `SitesEvaluation` for several sites.

    Raises:
        ValueError: If the tokens are empty, or the dictionary is incompatible with the site.

    Example:
        >>> import torch, sparsedict as sd
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), mlp, torch.nn.Linear(4, 10))
        >>> site = sd.Site(model, "1")
        >>> result = evaluate(site, sd.SparseDistiller.from_neurons(site.neurons), torch.randint(10, (4, 8)))
        >>> abs(round(result.losses.kl, 3)), result.n_tokens
        (0.0, 32)
    """
    checks.instance("site", site, Site | Mapping, "a site or sites, such as `sd.Site(model, path)`")
    if loss is not None:
        checks.function("loss", loss, LOSS)
    if isinstance(site, Mapping):
        sites = site if isinstance(site, Sites) else Sites(site)
        return evaluate_sites(
            sites,
            dictionary,
            tokens,
            batch_size=batch_size,
            n_tokens=n_tokens,
            loss=loss,
            mask_token=mask_token,
            reads=reads,
            writes=writes,
        )
    adapter = Adapter(dictionary, reads, writes)
    error, sparsity, mean = RunningError("tokens"), RunningL0(), RunningMean()
    fired: Tensor | None = None
    batches: list[tuple[Tokens, Tensor]] = []
    with evaluation_mode(site.model, dictionary):
        for batch, seen in captures(site, adapter, tokens, batch_size, n_tokens):
            batches.append((batch, seen.kept))
            activations = seen.batch()
            targets = adapter.targets(activations)
            inputs = adapter.inputs(activations)
            adapter.check_widths(inputs, targets)
            mean.update_(targets)
            counts = _measure(adapter, inputs, targets, error, sparsity)
            fired = counts if fired is None else fired + counts
        assert fired is not None
        named = {"": conditions(site, adapter, mean.value)}
        found, note = losses_or_reason(lambda: measure_losses([site], named, batches, loss, mask_token), named)
    losses = None if found is None else found[""]
    dead = DeadLatents(fired == 0, error.n_tokens)
    note = note if losses is None else losses.note
    return Evaluation(error.fvu, error.squared_error, sparsity.value, dead, error.n_tokens, losses, note)


def _measure(adapter: Adapter, inputs: Tensor, targets: Tensor, error: RunningError, sparsity: RunningL0) -> Tensor:
    """Adds a batch, in blocks that fit into memory when encoded. Returns the firing count of each latent."""
    counts: list[Tensor] = []
    for x, y in zip(adapter.fit(inputs).split(adapter.n_rows), targets.split(adapter.n_rows), strict=True):
        latents = adapter.encode_sparse(x)
        error.update_(adapter.reconstruct(latents, x), y.to(x.device))
        sparsity.update_(latents)
        counts.append(firing_counts(latents))
    return torch.stack(counts).sum(0)
