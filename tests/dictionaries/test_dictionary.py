from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import cases
import sparsedict as sd
from sparsedict.kernels import _select

every_kind = pytest.mark.parametrize("kind", cases.KINDS)


def distiller(**changes: object) -> sd.Dictionary:
    arguments = {"d_in": 6, "d_out": 5, "n_latents": 12, "activation": sd.ReLU(), "decoder_norm": sd.UnitNorm()}
    return sd.SparseDistiller(**{**arguments, **changes})


@pytest.mark.as_installed
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"d_in": 0}, ValueError, "`d_in` must be at least 1, got 0"),
        ({"d_out": -3}, ValueError, "`d_out` must be at least 1, got -3"),
        ({"n_latents": 0}, ValueError, "`n_latents` must be at least 1, got 0"),
        ({"n_latents": 12.0}, TypeError, r"`n_latents` must be an integer, got 12\.0 of type float"),
        ({"n_latents": torch.tensor([12, 12])}, TypeError, "`n_latents` must be an integer"),
        ({"activation": sd.TopK}, TypeError, r"`activation` must be an Activation.*pass an instance, not the class"),
        (
            {"activation": "relu"},
            TypeError,
            r"`activation` must be an Activation such as `sd\.TopK.*, got 'relu'",
        ),
        ({"activation": torch.relu}, TypeError, r"`activation` must be an Activation such as"),
        ({"activation": sd.UnitNorm()}, TypeError, r"`activation` must be .*got UnitNorm\(\)"),
        ({"decoder_norm": sd.UnitNorm}, TypeError, r"`decoder_norm` must be a DecoderNorm.*not the class"),
        (
            {"decoder_norm": None},
            TypeError,
            r"`decoder_norm` must be a DecoderNorm such as `sd\.Unit.*, got None",
        ),
        ({"activation": sd.TopK(13)}, ValueError, "got k=13 for 12 latents"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        distiller(**changes)


@pytest.mark.as_installed
@every_kind
@pytest.mark.parametrize("method", ["encode", "encode_sparse", "__call__"])
def test_bad_activations_are_named(kind: str, method: str) -> None:
    call = getattr(cases.make(kind), method)
    with pytest.raises(ValueError, match=r"last dimension of `x` must be 6, got shape \(2, 7\)"):
        call(torch.zeros(2, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"last dimension of `x` must be 6, got shape \(6, 2\)"):
        call(torch.zeros(6, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"`x` must contain floating-point activations .*torch\.int64.*Pass tokens to"):
        call(torch.zeros(2, 6, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"`x` must be a tensor of activations \[\.\.\., 6\], got list"):
        call([[0.0] * 6])


@pytest.mark.as_installed
@every_kind
def test_bad_latents_are_named(kind: str) -> None:
    dictionary = cases.make(kind)
    with pytest.raises(ValueError, match=r"last dimension of `latents` must be 12, .*got shape \(2, 11\)"):
        dictionary.decode(torch.zeros(2, 11, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"last dimension of `latents` must be 12, .*got shape \(2, 11\)"):
        dictionary.decode(sd.SparseLatents.from_dense(torch.zeros(2, 11, dtype=torch.float64)))


@pytest.mark.as_installed
def test_bad_training_batches_are_named() -> None:
    dictionary = cases.make("distiller")
    inputs, targets = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"last dimension of `inputs` must be 6, got shape \(3, 5\)"):
        dictionary.forward_pass(targets, targets)
    with pytest.raises(ValueError, match=r"last dimension of `targets` must be 5, got shape \(3, 6\)"):
        dictionary.forward_pass(inputs, inputs)
    with pytest.raises(TypeError, match="`inputs` must contain floating-point activations"):
        dictionary.forward_pass(inputs.long(), targets)
    same = r"`inputs` and `targets` must be rows of the same tokens, at least one, got shapes"
    with pytest.raises(ValueError, match=same + r" \(3, 6\) and \(1, 5\)"):
        dictionary.forward_pass(inputs, targets[:1])
    with pytest.raises(ValueError, match=same + r" \(1, 3, 6\) and \(1, 3, 5\)"):
        dictionary.forward_pass(inputs[None], targets[None])
    with pytest.raises(ValueError, match=same + r" \(0, 6\) and \(0, 5\)"):
        dictionary.forward_pass(inputs[:0], targets[:0])


@every_kind
def test_a_dictionary_selects_the_points_that_it_names(kind: str) -> None:
    dictionary = cases.make(kind)
    points = [f"{site}{role}" for site in ("", "0.", "1.") for role in ("inputs", "outputs", "neurons")]
    batch = sd.Activations({point: torch.full((3, 1), index).float() for index, point in enumerate(points)})
    for selected, names in zip(dictionary.select(batch), (dictionary.reads, dictionary.writes), strict=True):
        wanted = [batch[name] for name in ((names,) if isinstance(names, str) else names)]
        assert torch.equal(selected, torch.cat(wanted, -1))


@pytest.mark.parametrize("kind", cases.PLAIN_KINDS)
def test_rows_are_latents_and_lie_together(kind: str) -> None:
    dictionary = cases.make(kind)
    shapes = {
        "encoder": (12, dictionary.d_in),
        "encoder_bias": (12,),
        "decoder": (12, dictionary.d_out),
        "decoder_bias": (dictionary.d_out,),
    }
    for name, shape in shapes.items():
        weight = dictionary.get_parameter(name)
        assert tuple(weight.shape) == shape
        assert weight.is_contiguous()
        assert weight.requires_grad


def test_biases_start_at_zero_and_directions_are_spread() -> None:
    dictionary = sd.SparseDistiller(64, 64, 1000, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
    assert not dictionary.encoder_bias.any()
    assert not dictionary.decoder_bias.any()
    for rows in (dictionary.encoder, dictionary.decoder):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(1000))
        assert rows.mean(0).norm() < 0.1


def test_new_weights_follow_torchs_seed_and_the_generator() -> None:
    torch.manual_seed(5)
    first = distiller()
    torch.manual_seed(5)
    assert torch.equal(distiller().encoder, first.encoder)
    assert not torch.equal(distiller().encoder, first.encoder)
    state = torch.get_rng_state()
    distiller(generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_dictionary_can_be_made_on_any_device() -> None:
    meta = distiller(device="meta", activation=sd.BatchTopK(3), skip=True, input_bias=True)
    assert all(tensor.is_meta for tensor in (*meta.parameters(), *meta.buffers()))


@pytest.mark.parametrize(("kind", "activation"), cases.PAIRS)
def test_state_dict_and_deepcopy_keep_everything(kind: str, activation: str) -> None:
    dictionary = cases.make(kind, activation)
    x = cases.tokens(5)
    copied = copy.deepcopy(dictionary)
    other = cases.KINDS[kind].make(
        activation=dictionary.activation, decoder_norm=dictionary.decoder_norm, dtype=torch.float64
    )
    other.load_state_dict(dictionary.state_dict())
    for again in (copied, other):
        assert torch.equal(again(x).reconstruction, dictionary(x).reconstruction)


def test_the_repr_describes_a_dictionary() -> None:
    text = repr(distiller(activation=sd.TopK(3)))
    assert "SparseDistiller(d_in=6, d_out=5, n_latents=12, activation=TopK(k=3), decoder_norm=UnitNorm()" in text


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_activations_of_another_type_are_converted(kind: str, dtype: torch.dtype) -> None:
    dictionary = cases.make(kind).float()
    x = cases.tokens(7).to(dtype)
    latents, reconstruction = dictionary(x)
    assert latents.dtype == reconstruction.dtype == torch.float32
    torch.testing.assert_close(latents, dictionary.encode(x.float()))


class Scaled(sd.SparseAutoencoder):
    """Learns a scale of its inputs, and says nothing of an offset."""

    def __init__(self, d_in: int, n_latents: int, **parts: Any) -> None:
        super().__init__(d_in, n_latents, **parts)
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 2.0, d_in))

    def encoder_inputs(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


def test_parameters_of_encoder_inputs_get_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    dictionary = Scaled(
        8, 24, activation=sd.TopK(4), decoder_norm=sd.Free(), dtype=torch.float64, generator=generator
    ).train()
    torch.nn.init.normal_(dictionary.decoder_bias, generator=generator)
    x = torch.randn(9, 8, dtype=torch.float64, generator=generator)
    out = dictionary.forward_pass(x, x)
    weights = (dictionary.scale, dictionary.decoder_bias)
    actual = torch.autograd.grad(out.reconstruction.square().sum(), weights)
    pre = dictionary.pre_activations(x)
    latents = torch.zeros_like(pre).scatter(1, pre.topk(4).indices, pre.topk(4).values.relu())
    wanted = torch.autograd.grad((latents @ dictionary.decoder + dictionary.decoder_bias).square().sum(), weights)
    torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [sd.ReLU(), sd.JumpReLU(0.3), sd.TopK(200)])
@pytest.mark.parametrize("bias", [0.0, -1.5])
def test_encoding_whole_and_sparsely_gives_the_same_numbers(
    activation: sd.Activation, bias: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_select, "BLOCK_BYTES", 1)
    generator = torch.Generator().manual_seed(0)
    dictionary = sd.SparseAutoencoder(
        64, 512, activation=activation, decoder_norm=sd.UnitNorm(), dtype=torch.float32, generator=generator
    )
    dictionary.encoder_bias.data.fill_(bias)
    x = torch.randn(700, 64, generator=generator)
    for bounded in (False, True):
        monkeypatch.setattr(_select, "bounds_are_faster", lambda inputs, rows, bounded=bounded: bounded)
        assert torch.equal(dictionary.encode(x), dictionary.encode_sparse(x).to_dense())
