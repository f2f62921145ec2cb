"""Measurement of the losses of a model with its MLPs unchanged, replaced by dictionaries, and ablated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sparsedict.analysis._gaps import LossSums
from sparsedict.analysis._masked_tokens import NotCausalError
from sparsedict.analysis._recovered import LossRecovered
from sparsedict.analysis._scorer import Scorer
from sparsedict.analysis._token_batches import Tokens
from sparsedict.analysis._token_loss import NoLossError
from sparsedict.sites import NoLogitsError, ReplacementOrderError, Site

ModelLoss = Callable[[Tensor, Tokens, Tensor], Tensor]
"""A user-defined loss: a function of model output, tokens and mask of counted positions that returns losses ``[n]``."""

LOSS = "a function of the output of the model, tokens and mask that returns losses"
"""What a user-defined loss must be, for messages."""

Context = Callable[[], AbstractContextManager[None]]
"""A function that returns a context in which the MLPs of a model are replaced."""


@dataclass(frozen=True)
class Conditions:
    """The contexts for the losses of a `LossRecovered`.

    Attributes:
        replaced: Context in which dictionaries replace the MLPs.
        zero: Context in which zero replaces their outputs.
        mean: Context in which the mean replaces their outputs.
    """

    replaced: Context
    zero: Context
    mean: Context

    @property
    def contexts(self) -> tuple[Context, Context, Context]:
        return self.replaced, self.zero, self.mean


class _Losses:
    """Running losses of one set of conditions."""

    def __init__(self) -> None:
        self.sums = LossSums()
        self.divergence = 0.0
        self.n_agreed = 0

    def result(self, has_divergence: bool) -> LossRecovered:
        n = self.sums.n
        if n == 0:
            raise ValueError(
                "`tokens` must contain at least one token to predict, but all of them are padding or excluded."
            )
        base, replaced, zero_ablated, mean_ablated = self.sums.means
        _, _, zero_error, mean_error = self.sums.gap_errors
        kl = self.divergence / n if has_divergence else None
        agreement = self.n_agreed / n if has_divergence else None
        return LossRecovered(
            base, replaced, zero_ablated, mean_ablated, kl, n, zero_error, mean_error, agreement=agreement
        )


def measure_losses(
    sites: Sequence[Site],
    conditions: Mapping[str, Conditions],
    batches: Iterable[tuple[Tokens, Tensor]],
    loss: ModelLoss | None,
    mask_token: int | None,
) -> dict[str, LossRecovered]:
    """Runs the original model on each batch, and the model in the three contexts of each set of conditions.

    Args:
        sites: The sites that are replaced, all of one model.
        conditions: Sets of conditions by name.
        batches: Tokens with the mask of counted positions.
        loss: A user-defined loss, see `loss_recovered`.
        mask_token: Id of the mask token, see `loss_recovered`.

    Raises:
        NoLogitsError: If the model returns no logits and no loss is passed.
        NoLossError: If the logits aren't those of the tokens and no loss is passed.
        ValueError: If there is no token to predict.
    """
    scorer = Scorer(sites, mask_token) if loss is None else None
    found = {name: _Losses() for name in conditions}
    for batch, mask in batches:
        if scorer is None:
            assert loss is not None
            _measure_custom(sites[0], conditions, found, batch, mask, loss)
            continue
        scored = scorer(batch, mask)
        base = scored.loss(scored.logits)
        for name, own in conditions.items():
            losses = [base]
            for context in own.contexts:
                output = _output(sites[0], context, scored.batch)
                losses.append(scored.loss(output))
                if context is own.replaced:
                    divergence = scored.loss.divergence(scored.logits, output)
                    found[name].divergence += float(divergence.cpu().double().sum())
                    found[name].n_agreed += int(scored.loss.agreement(scored.logits, output).sum())
            found[name].sums.update_(losses, scored.loss.sequences)
    return {name: own.result(scorer is not None) for name, own in found.items()}


def losses_or_reason(
    measure: Callable[[], dict[str, LossRecovered]], names: Iterable[str]
) -> tuple[dict[str, LossRecovered] | None, str | None]:
    """Returns the losses by name, with NaN if they can't be measured, or None and the reason."""
    try:
        return measure(), None
    except NotCausalError as unknown:
        return dict.fromkeys(names, LossRecovered.unknown(str(unknown))), None
    except (NoLossError, NoLogitsError, ReplacementOrderError) as missing:
        return None, str(missing)


def _measure_custom(
    site: Site,
    conditions: Mapping[str, Conditions],
    found: Mapping[str, _Losses],
    batch: Tokens,
    mask: Tensor,
    loss: ModelLoss,
) -> None:
    """Takes in losses of a user-defined function."""

    def measured(output: Tensor) -> Tensor:
        own = loss(output, batch, mask)
        if not isinstance(own, Tensor) or not own.is_floating_point():
            raise TypeError(f"`loss` must return a tensor of losses, got {type(own).__name__}.")
        return own

    base = measured(site.logits(batch))
    for name, own in conditions.items():
        losses = [measured(_output(site, context, batch)) for context in own.contexts]
        found[name].sums.update_([base, *losses], None)


def _output(site: Site, context: Context, batch: Tokens) -> Tensor:
    with context():
        return site.logits(batch)


class RunningMean:
    """The running mean of rows."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._n = 0

    def update_(self, rows: Float[Tensor, "n_tokens d"]) -> None:
        """Adds a batch."""
        new = rows.float().sum(0).double() if rows.device.type != "mps" else rows.float().sum(0).cpu().double()
        self._sum = new if self._sum is None else self._sum + new
        self._n += len(rows)

    @property
    def width(self) -> int:
        assert self._sum is not None
        return len(self._sum)

    @property
    def value(self) -> Float[Tensor, " d"]:
        assert self._sum is not None
        return (self._sum / max(self._n, 1)).float()
