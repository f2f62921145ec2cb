"""Dictionaries of given weights, and with another activation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cases
import sparsedict as sd


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


N, D, E = 12, 6, 5
SAE: dict[str, Any] = {"activation": sd.ReLU(), "input_offset": "none"}


def test_an_autoencoder_from_weights_matches_its_equation() -> None:
    encoder, decoder, b_enc, b_dec, own = drawn(N, D), drawn(N, D), drawn(N), drawn(D), drawn(D) + 1
    x = cases.tokens(9)
    for offset, moved in (("none", x), ("decoder_bias", x - b_dec), ("own", x + own)):
        made = sd.SparseAutoencoder.from_weights(
            encoder,
            decoder,
            encoder_bias=b_enc,
            decoder_bias=b_dec,
            input_bias=own if offset == "own" else None,
            input_offset=offset,  # pyright: ignore[reportArgumentType]
            activation=sd.ReLU(),
        )
        latents = (moved @ encoder.T + b_enc).relu()
        torch.testing.assert_close(made(x).latents, latents)
        torch.testing.assert_close(made(x).reconstruction, latents @ decoder + b_dec)
        assert (made.decoder_norm, made.training, made.is_untouched) == (sd.Free(), False, False)


def test_a_distiller_from_weights_matches_its_equation() -> None:
    encoder, decoder, bias, skip = drawn(N, D), drawn(N, E), drawn(D), drawn(E, D)
    made = sd.SparseDistiller.from_weights(encoder, decoder, input_bias=bias, skip=skip, activation=sd.ReLU())
    x = cases.tokens(9)
    torch.testing.assert_close(made(x).reconstruction, ((x + bias) @ encoder.T).relu() @ decoder + x @ skip.T)


@pytest.mark.parametrize("kind", cases.PLAIN_KINDS)
def test_the_weights_of_any_dictionary_make_it_again(kind: str) -> None:
    given = cases.make(kind, "jump_relu")
    assert isinstance(given, sd.SparseAutoencoder | sd.SparseDistiller)
    names = ("encoder", "decoder", "encoder_bias", "decoder_bias", "input_bias")
    weights: dict[str, Any] = {name: getattr(given, name) for name in names}
    weights |= {"activation": given.activation, "input_norm": given.input_norm}
    weights |= {"activation_state": given.activation_state.state_dict()}
    norm_state = {} if given.input_norm is None else given.input_norm.initial_state(given.d_in)
    weights |= {"input_norm_state": {name: getattr(given, f"input_{name}") for name in norm_state}}
    if isinstance(given, sd.SparseAutoencoder):
        again: sd.Dictionary = sd.SparseAutoencoder.from_weights(**weights, input_offset=given.input_offset)
    else:
        again = sd.SparseDistiller.from_weights(**weights, skip=given.skip)
    x = cases.tokens(9)
    torch.testing.assert_close(again(x), given(x))
    assert again.encoder.data_ptr() != given.encoder.data_ptr()


@pytest.mark.parametrize(
    ("activation", "names"),
    [
        (sd.JumpReLU(), ("log_threshold",)),
        (sd.JumpReLU(bandwidth=0.5, learns="threshold"), ("threshold",)),
        (sd.Gated(), ("gate_bias", "log_scale", "magnitude_bias")),
    ],
)
def test_learned_state_is_never_invented(activation: sd.Activation, names: tuple[str, ...]) -> None:
    weights: dict[str, Any] = {"encoder": drawn(N, D), "decoder": drawn(N, D)}
    part = dict.fromkeys(names[1:], 0.5)
    with pytest.raises(
        ValueError, match=rf"`activation_state` must contain '{names[0]}' for {type(activation).__name__}"
    ):
        sd.SparseAutoencoder.from_weights(**weights, activation=activation, activation_state=part, input_offset="none")
    with pytest.raises(ValueError, match="`activation_state` must contain"):
        sd.SparseDistiller.from_weights(**weights, activation=activation)
    made = sd.SparseDistiller.from_weights(
        **weights, activation=activation, activation_state=dict.fromkeys(names, 0.25)
    )
    for name in names:
        assert bool((made.activation_state.entries()[name] == 0.25).all())


@pytest.mark.parametrize("name", cases.ACTIVATIONS)
def test_an_activation_may_leave_out_only_what_evaluation_requires(name: str) -> None:
    """Without state, every activation gives the values of its arguments, or raises an error that names the state."""
    activation, reference = cases.ACTIVATIONS[name].activation, cases.ACTIVATIONS[name].reference
    state = {key: value.double() for key, value in activation.initial_state(N).items()}

    def latents() -> Tensor:
        made = sd.SparseDistiller.from_weights(drawn(N, D), drawn(N, D), activation=activation)
        return made(cases.tokens(9)).latents

    if state and not activation.gives_state:
        with pytest.raises((ValueError, RuntimeError), match="activation_state"):
            latents()
    else:
        torch.testing.assert_close(latents(), reference(cases.tokens(9) @ drawn(N, D).T, state, False))


def test_an_input_norm_requires_its_numbers() -> None:
    with pytest.raises(ValueError, match=r"`input_norm_state` must contain 'scale' for InputStandardise"):
        sd.SparseAutoencoder.from_weights(
            drawn(N, D),
            drawn(N, D),
            input_norm=sd.InputStandardise(),
            input_norm_state={"mean": torch.zeros(D)},
            **SAE,
        )


@pytest.mark.parametrize(
    ("state", "message"), [({"scale": torch.ones(D)}, "must have names among"), ({"mean": torch.ones(2)}, "of shape")]
)
def test_an_input_norm_rejects_other_numbers(state: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"`input_norm_state.*{message}"):
        sd.SparseAutoencoder.from_weights(
            drawn(N, D), drawn(N, D), input_norm=sd.InputCentre(), input_norm_state=state, **SAE
        )


def test_weights_are_copied_unless_they_may_be_shared() -> None:
    encoder = drawn(N, D)
    for copy in (True, False):
        made = sd.SparseAutoencoder.from_weights(encoder, drawn(N, D), **SAE, copy=copy)
        assert (made.encoder.data_ptr() == encoder.data_ptr()) is not copy
        assert made.encoder.requires_grad


def test_a_made_dictionary_trains_and_is_saved(tmp_path: Any) -> None:
    made = sd.SparseAutoencoder.from_weights(drawn(N, D), drawn(N, D), **SAE)
    sd.fit(made, cases.tokens(64), n_tokens=128, batch_size=32, progress=False)
    made.save(tmp_path)
    assert torch.equal(sd.load(tmp_path).decoder, made.decoder)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"encoder": drawn(D, N)}, r"shapes \[6, 12\] and \[12, 6\]\. The transpose of one of them would fit"),
        ({"decoder": drawn(D, N)}, r"The transpose of one of them would fit"),
        ({"encoder": drawn(7, N)}, r"The transpose of `encoder` would fit: pass `\.T`"),
        ({"decoder": drawn(7, N)}, r"The transpose of `decoder` would fit: pass `\.T`"),
        ({"encoder": drawn(7, 9)}, r"must have one row for each latent, got shapes \[7, 9\] and \[12, 6\]\.$"),
        (
            {"encoder": drawn(D, N), "decoder": drawn(D, N), "encoder_bias": drawn(N)},
            r"`encoder` must have one row for each latent, 12 by `encoder_bias`, got shape \[6, 12\]\. Its transpose",
        ),
        ({"encoder": drawn(D, N), "encoder_bias": drawn(N)}, r"`encoder` must .* Its transpose would fit"),
        ({"decoder": drawn(D, N), "encoder_bias": drawn(N)}, r"`decoder` must .* Its transpose would fit"),
        ({"encoder_bias": drawn(5)}, r"one row for each latent, 5 by `encoder_bias`, got shape \[12, 6\]\.$"),
        ({"decoder_bias": drawn(5)}, r"`decoder_bias` must be of shape \[6\], got \[5\]"),
        ({"decoder": drawn(N, E)}, "`decoder` must be as wide as `encoder`, 6, for an autoencoder, got 5"),
        ({"encoder": drawn(N)}, r"`encoder` must be of shape \[n_latents, d_in\], got \[12\]"),
        ({"encoder": drawn(N, D) * torch.nan}, "`encoder` must be finite"),
        ({"input_bias": drawn(D)}, "`input_bias` must be given with `input_offset='own'`"),
        (
            {"activation_state": {"threshold": 1.0}},
            r"must be left out for ReLU\(\), got 'threshold'",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(weights: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"encoder": drawn(N, D), "decoder": drawn(N, D)} | SAE | weights
    with pytest.raises(ValueError, match=message):
        sd.SparseAutoencoder.from_weights(**given)


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (drawn(N, D).numpy(), r"`encoder` must be a tensor .* got ndarray \(use `torch.from_numpy`\)"),
        (torch.ones(N, D, dtype=torch.int64), r"got a tensor of torch.int64"),
        (nn.Linear(D, N), "got Linear"),
    ],
)
def test_weights_are_tensors(weight: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        sd.SparseAutoencoder.from_weights(weight, drawn(N, D), **SAE)


@pytest.mark.as_installed
def test_a_transposed_skip_is_named() -> None:
    with pytest.raises(ValueError, match=r"`skip` must be of shape \[5, 6\], got \[6, 5\]\. Its transpose would fit"):
        sd.SparseDistiller.from_weights(drawn(N, D), drawn(N, E), skip=drawn(D, E), activation=sd.ReLU())


def test_another_activation_leaves_the_weights() -> None:
    given = sd.SparseAutoencoder(D, N, activation=sd.TopK(3), decoder_norm=sd.UnitNorm(), dtype=torch.float64)
    made = given.with_activation(sd.BatchTopK(3), {"threshold": 0.25})
    x = cases.tokens(9)
    pre = given.pre_activations(x)
    torch.testing.assert_close(made.encode(x), torch.where(pre > 0.25, pre, 0.0))
    assert given.activation == sd.TopK(3)
    jump = given.with_activation(sd.JumpReLU(), {"log_threshold": torch.full((N,), 0.25).log()})
    torch.testing.assert_close(jump.encode(x), made.encode(x))
    assert torch.equal(made.encoder, given.encoder)
    assert made.encoder.data_ptr() != given.encoder.data_ptr()


@pytest.mark.parametrize(
    ("activation", "state", "message"),
    [
        (sd.BatchTopK(3), {"log_threshold": 0.0}, r"must contain threshold for BatchTopK\(.*got 'log_threshold'"),
        (sd.JumpReLU(), {"log_threshold": torch.zeros(5)}, r"'log_threshold' of shape \[12\], or one number.*\[5\]"),
        (sd.JumpReLU(), {"log_threshold": torch.nan}, "neither NaN nor infinite"),
        (sd.TopK(100), None, "`k` must be at most `n_latents`"),
    ],
)
def test_a_state_is_the_activation_s_own(activation: sd.Activation, state: Any, message: str) -> None:
    given = sd.SparseAutoencoder(D, N, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    with pytest.raises(ValueError, match=message):
        given.with_activation(activation, state)
