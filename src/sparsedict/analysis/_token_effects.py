"""`token_effects`, the tokens that a latent promotes and suppresses through the unembedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparsedict import checks
from sparsedict.adapters import Adapter
from sparsedict.analysis._cosines import N_COSINES, decoder_of
from sparsedict.batches import Points, names_of
from sparsedict.display import Displayed
from sparsedict.sites import Site, Sites
from sparsedict.sites.models import NoUnembeddingError, unembedding
from sparsedict.torch_state import in_own_state


@dataclass(frozen=True, eq=False, repr=False)
class TokenEffects(Displayed):
    """The direct effect of each latent on the logits.

    Attributes:
        promoted: Tokens of largest effect, the largest first, ``[n_latents, k]``.
        promoted_logits: Their effects, ``[n_latents, k]``.
        suppressed: Tokens of smallest effect, the smallest first, ``[n_latents, k]``.
        suppressed_logits: Their effects, ``[n_latents, k]``.
        norm: Path of the final norm.
    """

    promoted: Int[Tensor, "n_latents k"]
    promoted_logits: Float[Tensor, "n_latents k"]
    suppressed: Int[Tensor, "n_latents k"]
    suppressed_logits: Float[Tensor, "n_latents k"]
    norm: str | None


@in_own_state
@torch.no_grad()
def token_effects(site: Site | Sites, dictionary: Any, *, k: int = 10, reads: Points | None = None) -> TokenEffects:
    r"""Returns the tokens that each latent promotes and suppresses directly, through the final norm and unembedding.

    .. math::
        e = U \left(g \odot c(d)\right) - \text{mean}

    $d$ is the decoder row, $U$ the unembedding, $g$ the scale of the final norm, and $c$ subtracts the mean if the
    final norm is a LayerNorm. The mean over the vocabulary is subtracted, which the softmax ignores. The effect is that
    of an activation of 1 on a residual stream of unit root mean square. Later layers, and a norm between the MLP's
    output and the residual stream, are ignored. The decoder rows of a dictionary that writes several layers are added
    up. Rows that write neurons are first multiplied by the neurons' decoder.

    Args:
        site: The site or the sites of the dictionary.
        dictionary: A `Dictionary`, `Neurons`, or another library's object with decoder rows.
        k: Number of tokens on each side.
        reads: The activations that an object of another library reads.

    Raises:
        NoUnembeddingError: If the model's unembedding can't be found, or the rows aren't in the residual stream. It is
            a ``ValueError``, and the message gives the reason.

    Source: nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020.

    Example:
        >>> import sparsedict as sd
        >>> site = sd.Site(sd.zoo.load_model(), "transformer.h.3.mlp")
        >>> token_effects(site, site.neurons, k=3).promoted.shape
        torch.Size([512, 3])
    """
    checks.instance("site", site, Site | Sites, "a site or sites, such as `sd.Site(model, path)`")
    models = [site.model] if isinstance(site, Site) else list(site.models)
    if len(models) > 1:
        raise NoUnembeddingError("The sites are of several models, whose logits aren't comparable.")
    head = unembedding(models[0])
    rows = _residual_rows(site, dictionary, reads)
    if rows.shape[1] != head.weight.shape[1]:
        raise NoUnembeddingError(
            f"The decoder rows have width {rows.shape[1]}, and the unembedding reads width {head.weight.shape[1]}."
        )
    k = min(checks.at_least("k", k, 1), len(head.weight))
    size = max(1, N_COSINES // len(head.weight))
    found: list[tuple[Tensor, ...]] = []
    for part in rows.split(size):
        logits = head.logits(part)
        top, bottom = logits.topk(k, dim=1), logits.topk(k, dim=1, largest=False)
        found.append((top.indices, top.values, bottom.indices, bottom.values))
    promoted, gained, suppressed, lost = (torch.cat(part).cpu() for part in zip(*found, strict=True))
    return TokenEffects(promoted, gained, suppressed, lost, head.norm)


def _residual_rows(site: Site | Sites, dictionary: Any, reads: Points | None) -> Tensor:
    """Returns the direction in the residual stream that each latent writes."""
    rows, adapter = decoder_of("dictionary", dictionary), Adapter(dictionary, reads)
    writes = names_of(adapter.points[1])
    widths = getattr(adapter.source, "point_widths", None) or (rows.shape[1] // len(writes),) * len(writes)
    total: Tensor | None = None
    for point, part in zip(writes, rows.split(list(widths), dim=1), strict=True):
        name, _, role = point.rpartition(".")
        if role == "inputs":
            raise NoUnembeddingError("The latents reproduce the MLP's input, which isn't added to the residual stream.")
        if role == "neurons":
            own = site if isinstance(site, Site) else site[name or next(iter(site))]
            part = part @ own.neurons.decoder.to(part)
        if total is not None and total.shape != part.shape:
            raise NoUnembeddingError("The latents write several widths, which can't be added up.")
        total = part if total is None else total + part
    assert total is not None
    return total
