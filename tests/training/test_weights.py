"""Weights that can't be trained raise errors; frozen weights stay unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sparsedict as sd
from sparsedict.data import SyntheticFeatures

pytestmark = pytest.mark.as_installed

D, N_LATENTS = 8, 24
X = SyntheticFeatures(D, 40, 3.0, seed=0).sample(512, 1)[0].outputs


def coder(activation: sd.Activation | None = None, **kwargs: Any) -> sd.SparseAutoencoder:
    kwargs = {"decoder_norm": sd.UnitNorm()} | kwargs
    return sd.SparseAutoencoder(D, N_LATENTS, activation=activation or sd.TopK(3), **kwargs)


def fit(dictionary: sd.Dictionary, **kwargs: Any) -> sd.History:
    return sd.fit(dictionary, X, n_tokens=1024, batch_size=128, progress=False, **kwargs)


def mixed(dictionary: sd.SparseAutoencoder) -> None:
    dictionary.encoder = nn.Parameter(dictionary.encoder.detach().double())


def broken(dictionary: sd.SparseAutoencoder) -> None:
    with torch.no_grad():
        dictionary.encoder_bias[3] = torch.nan


def elsewhere(dictionary: sd.SparseAutoencoder) -> None:
    dictionary.decoder = nn.Parameter(dictionary.decoder.detach().to("meta"))


REFUSED: dict[str, tuple[Callable[[sd.SparseAutoencoder], Any], str]] = {
    "float16": (lambda d: d.half(), "must have float32 weights for training, got torch.float16 in `encoder`"),
    "float8": (lambda d: d.to(torch.float8_e4m3fn), r".*got torch.float8_e4m3fn in `encoder`"),
    "mixed": (
        mixed,
        r"must have all weights of one type, got torch.float64 for `encoder` and torch.float32 for the other weights",
    ),
    "NaN": (broken, r"must have finite weights, got NaN or infinity in `encoder_bias`"),
    "two devices": (
        elsewhere,
        r"must have all weights of one device, got meta for `decoder` and cpu for the other weights",
    ),
    "no memory": (lambda d: d.to("meta"), r"must have weights in memory, got `encoder` on the meta device"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_can_not_be_trained_raise(case: str) -> None:
    change, message = REFUSED[case]
    dictionary = coder()
    change(dictionary)
    with pytest.raises(ValueError, match=f"`dictionary` {message}"):
        fit(dictionary)
    with pytest.raises(ValueError, match=rf"`trainees\['b'\].dictionary` {message}"):
        sd.fit_many({"a": sd.Trainee(coder()), "b": sd.Trainee(dictionary)}, X, n_tokens=256, progress=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_other_types_are_trained(dtype: torch.dtype) -> None:
    assert fit(coder().to(dtype)).last.fvu < 1


FROZEN = ("encoder", "encoder_bias", "decoder", "decoder_bias")


@pytest.mark.parametrize("norm", [sd.UnitNorm(), sd.MaxNorm(0.5), sd.Free()], ids=repr)
@pytest.mark.parametrize("name", FROZEN)
@pytest.mark.parametrize("penalties", [[], [sd.AuxK(4, 100)]], ids=["plain", "AuxK"])
def test_frozen_weights_stay_to_the_bit(name: str, norm: sd.DecoderNorm, penalties: list[sd.Penalty]) -> None:
    dictionary = coder(decoder_norm=norm)
    weight = getattr(dictionary, name)
    weight.data.mul_(2).add_(0.25)
    weight.requires_grad_(False)
    before = {key: value.clone() for key, value in dictionary.state_dict().items()}
    dictionary.initialise_(X, X)
    assert torch.equal(weight, before[name])
    fit(dictionary, penalties=penalties)
    assert torch.equal(weight, before[name])
    assert all(not torch.equal(dictionary.state_dict()[key], before[key]) for key in FROZEN if key != name)


@pytest.mark.parametrize("name", ["encoder", "encoder_bias", "decoder"])
def test_resampling_needs_weights_that_are_trained(name: str) -> None:
    dictionary = coder(sd.ReLU())
    getattr(dictionary, name).requires_grad_(False)
    with pytest.raises(ValueError, match=rf"Resample writes .*, but `{name}` is frozen .*AuxK"):
        fit(dictionary, step_hooks=[sd.Resample(every=2)])


def share_parameter(a: sd.SparseAutoencoder, b: sd.SparseAutoencoder) -> None:
    b.decoder = a.decoder


def share_memory(a: sd.SparseAutoencoder, b: sd.SparseAutoencoder) -> None:
    b.decoder = nn.Parameter(a.decoder.data[:])


def share_frozen_by_one(a: sd.SparseAutoencoder, b: sd.SparseAutoencoder) -> None:
    b.decoder = nn.Parameter(a.decoder.data, requires_grad=False)


def share_state(a: sd.SparseAutoencoder, b: sd.SparseAutoencoder) -> None:
    b.activation_state = a.activation_state


@pytest.mark.parametrize(
    ("share", "names"),
    [
        (share_parameter, "`decoder` of 'a' and `decoder` of 'b'"),
        (share_memory, "`decoder` of 'a' and `decoder` of 'b'"),
        (share_frozen_by_one, "`decoder` of 'a' and `decoder` of 'b'"),
        (share_state, "`activation_state.threshold` of 'a' and `activation_state.threshold` of 'b'"),
    ],
)
def test_two_trainees_may_not_train_one_weight(share: Callable[..., None], names: str) -> None:
    a, b = coder(sd.BatchTopK(3)), coder(sd.BatchTopK(3))
    share(a, b)
    with pytest.raises(ValueError, match=f"must not share weights, but {names} are one tensor"):
        sd.fit_many({"a": sd.Trainee(a), "b": sd.Trainee(b)}, X, n_tokens=256, progress=False)


def test_weights_frozen_in_both_may_be_shared() -> None:
    a, b = coder(), coder()
    b.decoder = a.decoder.requires_grad_(False)
    before = a.decoder.clone()
    sd.fit_many({"a": sd.Trainee(a), "b": sd.Trainee(b)}, X, n_tokens=512, batch_size=128, progress=False)
    assert torch.equal(a.decoder, before)


def test_parts_of_one_storage_may_be_trained_by_two() -> None:
    a, b = coder(), coder()
    both = torch.stack([a.decoder.detach(), b.decoder.detach()])
    a.decoder, b.decoder = nn.Parameter(both[0]), nn.Parameter(both[1])
    alone = copy.deepcopy(b)
    sd.fit_many({"a": sd.Trainee(a), "b": sd.Trainee(b)}, X, n_tokens=512, batch_size=128, progress=False)
    sd.fit(alone, X, n_tokens=512, batch_size=128, progress=False)
    assert torch.equal(b.decoder, alone.decoder)


def test_parts_from_a_generator_are_all_used() -> None:
    first, second = coder(sd.ReLU()), coder(sd.ReLU())
    second.load_state_dict(first.state_dict())
    fit(first, penalties=[sd.L1(0.5)])
    given: Any = (penalty for penalty in [sd.L1(0.5)])
    history = fit(second, penalties=given)
    assert history.last.penalties["L1"] > 0


@pytest.mark.parametrize("callbacks", [print, 3, [3]])
def test_callbacks_must_be_a_list_of_functions(callbacks: Any) -> None:
    with pytest.raises(TypeError, match="`callbacks` must"):
        fit(coder(), callbacks=callbacks)


def test_names_of_trainees_must_be_text() -> None:
    trainees: Any = {0: sd.Trainee(coder())}
    with pytest.raises(TypeError, match="`trainees` must have names of type str, got 0"):
        sd.fit_many(trainees, X, n_tokens=256)
