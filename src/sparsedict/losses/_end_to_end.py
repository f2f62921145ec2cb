"""`EndToEnd`, a loss on the predictions of the model with the dictionary in place of its MLP."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.dictionaries import Dictionary, ForwardPass
from sparsedict.display import Displayed
from sparsedict.losses._divergence import KL, Divergence
from sparsedict.losses._loss import Loss
from sparsedict.losses._squared_error import SquaredError
from sparsedict.sites import Site, Sites
from sparsedict.sites.models import input_device, without_parameter_gradients


@dataclass(frozen=True, eq=False, repr=False)
class EndToEnd(Displayed, Loss):
    r"""The squared error plus the divergence of the model's predictions with the dictionary in place of the MLP.

    .. math:: \ell(\hat y) + c \, D(\text{model with the dictionary} \,\|\, \text{model})

    Each step draws the next ``n_sequences`` rows of ``tokens``, and runs the model on them twice: unchanged, and with
    the dictionary. The reconstruction error is that of the step's batch of activations. The model isn't changed, and
    its parameters get no gradients.

    Args:
        site: The site of the dictionary, or the `Sites` of a dictionary over several layers of one model.
        tokens: Token ids, ``[n_rows, n_positions]``, without padding.
        divergence: The distance between predictions.
        coefficient: Weight :math:`c` of the divergence. ``None`` multiplies it by the ratio of the two terms in the
            step, so that both have the same size, as in Karvonen, 2025.
        reconstruction: The reconstruction loss :math:`\ell`; ``None`` to train on the divergence alone.
        begin: Fraction of the steps of the run after which the divergence is used. Before, the loss is the
            reconstruction loss. 0.9 finishes a run.
        n_sequences: Rows of tokens in each step.

    Source: Braun et al., "Identifying Functionally Important Features with End-to-End Sparse Dictionary Learning",
    2024, arXiv 2405.12241; as the end of a run: Karvonen, "Revisiting End-to-End Sparse Autoencoder Training: A Short
    Finetune Is All You Need", 2025, arXiv 2503.17272.
    """

    site: Site | Sites
    tokens: Int[Tensor, "n_rows n_positions"]
    divergence: Divergence = field(default_factory=KL)
    coefficient: float | None = None
    reconstruction: Loss | None = field(default_factory=SquaredError)
    begin: float = 0.0
    n_sequences: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.site, Site | Sites):
            raise TypeError(f"`site` must be a Site or Sites, got {type(self.site).__name__}.")
        if isinstance(self.site, Sites) and len(self.site.models) != 1:
            raise ValueError(f"`site` must have the sites of one model, got {len(self.site.models)} models.")
        _check_tokens(self.tokens)
        if not isinstance(self.divergence, Divergence):
            raise TypeError(f"`divergence` must be a Divergence such as sd.KL(), got {self.divergence!r}.")
        if self.coefficient is not None:
            checks.set_in_range(self, "coefficient", 0.0, open_low=True)
        if self.reconstruction is None and (self.coefficient is None or self.begin):
            raise ValueError(
                "`reconstruction` must be a loss if `coefficient` is None or `begin` isn't 0, got None. Pass "
                "`coefficient=1.0` and `begin=0.0` to train on the divergence alone."
            )
        if self.reconstruction is not None and not isinstance(self.reconstruction, Loss):
            raise TypeError(f"`reconstruction` must be a Loss such as sd.SquaredError(), got {self.reconstruction!r}.")
        checks.set_in_range(self, "begin", 0.0, 1.0)
        checks.set_at_least(self, "n_sequences", 1)

    def __call__(self, out: ForwardPass) -> Float[Tensor, ""]:
        error = None if self.reconstruction is None else self.reconstruction(out)
        if error is not None and out.progress < self.begin:
            return error
        divergence = self._divergence_of_part(out)
        if error is None:
            return divergence * (self.coefficient or 0.0)
        if self.coefficient is not None:
            return error + divergence * self.coefficient
        whole = out.whole.mean(divergence.detach()).clamp_min(torch.finfo(divergence.dtype).tiny)
        ratio = out.whole.mean(error.detach()) / whole
        return error + divergence * ratio.nan_to_num(0.0, 0.0, 0.0)

    def _divergence_of_part(self, out: ForwardPass) -> Float[Tensor, ""]:
        """Returns the divergence on this rank's rows of the step, as a term of a mean over tokens."""
        part, n_parts = out.whole.parallel.part, out.whole.parallel.n_parts
        rows = torch.arange(self.n_sequences, device="cpu")[part::n_parts]
        if not len(rows):
            return out.reconstruction.sum() * 0.0
        found = self._divergence(out.dictionary, rows + out.step * self.n_sequences).to(out.reconstruction)
        # The loop multiplies the terms of a rank by its share of the batch.
        return found if n_parts == 1 else found * (len(rows) / self.n_sequences / out.whole.share)

    def _divergence(self, dictionary: Dictionary, rows: Int[Tensor, " n_rows"]) -> Float[Tensor, ""]:
        """Returns the mean divergence on rows of the tokens, counted from the first step."""
        first = next(iter(self.site.values())) if isinstance(self.site, Sites) else self.site
        rows = rows % len(self.tokens)
        # The weights of offloaded modules are on the meta device.
        device = input_device(first.model) or self.tokens.device
        tokens = self.tokens[rows.to(self.tokens.device)].to(device)
        with without_parameter_gradients(first.model), torch.autocast(device.type, enabled=False):
            with torch.no_grad():
                original = first.logits(tokens)
            with self.site.replaced(dictionary):
                logits = first.logits(tokens)
        return self.divergence(logits.flatten(0, 1), original.flatten(0, 1))

    def check(self, dictionary: Dictionary) -> None:
        if isinstance(self.site, Sites):
            self.site.resolve(dictionary)
        else:
            for role, width in ((dictionary.reads, dictionary.d_in), (dictionary.writes, dictionary.d_out)):
                own = self.site.resolve(role).width() if isinstance(role, str) else None
                if own != width:
                    raise ValueError(
                        f"`site` must have the points of the dictionary, got {self.site!r}, whose {role} have width "
                        f"{own}, for a dictionary of width {width}."
                    )
        if self.reconstruction is not None:
            self.reconstruction.check(dictionary)


def _check_tokens(tokens: object) -> None:
    is_integer = isinstance(tokens, Tensor) and not tokens.is_floating_point() and not tokens.is_complex()
    if not isinstance(tokens, Tensor) or not is_integer or tokens.dtype == torch.bool:
        got = str(tokens.dtype) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"`tokens` must be a tensor of token ids [n_rows, n_positions], got {got}.")
    if tokens.ndim != 2 or not tokens.numel():
        raise ValueError(f"`tokens` must be of shape [n_rows, n_positions], not empty, got {list(tokens.shape)}.")
