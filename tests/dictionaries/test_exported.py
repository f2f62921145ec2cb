"""The exact form of every kind computes what the dictionary computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import cases
import sparsedict as sd
from sparsedict.dictionaries import Exported


def computed(form: Exported, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns latents and output by the form's equation, all dense."""
    normalised = x if form.input_norm is None else form.input_norm.normalise(x)
    read = normalised - form.decoder_bias if form.subtracts_decoder_bias else normalised
    pre = torch.einsum("td,ld->tl", read, form.encoder) + form.encoder_bias
    support = form.activation.support(pre, form.activation_state, training=False)
    latents = form.activation.values(pre, form.activation_state)
    if support is not None:
        stored = torch.zeros_like(pre).index_put((support.tokens, support.latents), torch.ones((), dtype=pre.dtype))
        latents = latents * stored
    output = torch.einsum("tl,ld->td", latents, form.decoder) + form.decoder_bias
    if form.input_norm is not None and not form.is_distiller:
        output = form.input_norm.restore(output, x)
    return latents, output if form.skip is None else output + x @ form.skip.T


@pytest.mark.parametrize("kind", [*cases.PLAIN_KINDS, "crosscoder"])
@pytest.mark.parametrize("activation", ["relu", "jump_relu", "gelu", "top_k", "gated"])
def test_the_form_computes_the_same(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    x = cases.tokens(9)[2:]
    form = dictionary.exported()
    latents, output = computed(form, x)
    torch.testing.assert_close(latents, dictionary.encode(x))
    torch.testing.assert_close(output, dictionary(x).reconstruction)
    assert not any(value.requires_grad for value in vars(form).values() if isinstance(value, Tensor))
    assert form.is_distiller == isinstance(dictionary, sd.SparseDistiller)


def form(**changes: Any) -> Exported:
    weights = {"encoder": torch.zeros(4, 3), "encoder_bias": torch.zeros(4), "decoder": torch.zeros(4, 2)}
    others = {"decoder_bias": torch.zeros(2), "activation": sd.ReLU(), "activation_state": {}, "is_distiller": True}
    return Exported(**{**weights, **others, **changes})


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_bias": torch.zeros(3)}, r"`encoder_bias` must be of shape \[4\], got \[3\]"),
        ({"decoder": torch.zeros(2, 4)}, r"`decoder` must be of shape \[4, 4\], got \[2, 4\]"),
        ({"decoder_bias": torch.zeros(3)}, r"`decoder_bias` must be of shape \[2\], got \[3\]"),
        ({"skip": torch.zeros(3, 2)}, r"`skip` must be of shape \[2, 3\], got \[3, 2\]"),
        ({"encoder": torch.zeros(4)}, r"must be matrices with one row for each latent, got shapes \[4\] and \[4, 2\]"),
        ({"subtracts_decoder_bias": True}, "must be False for widths d_in=3 and d_out=2"),
    ],
)
def test_shapes_that_do_not_fit_raise(changes: dict[str, Any], message: str) -> None:
    form()
    with pytest.raises(ValueError, match=message):
        form(**changes)
