from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch

import sparsedict as sd
from sparsedict.training import Cosine, RelativeLR

MAKE = partial(sd.SparseAutoencoder, 8, 16, activation=sd.ReLU(), decoder_norm=sd.UnitNorm())
OPTIONS: dict[str, Any] = {
    "penalties": [sd.L1(0.1)],
    "lr": RelativeLR(1e-3),
    "schedule": Cosine(),
    "optimizer": torch.optim.AdamW,
    "clip_norm": 1.0,
    "site": "0",
}


def test_a_recipe_trains_as_the_trainee_of_the_same_options() -> None:
    made = sd.Recipe(MAKE, **OPTIONS).trainee()
    wanted = sd.Trainee(made.dictionary, **OPTIONS)
    for field in dataclasses.fields(sd.Trainee):
        if field.name != "loss":
            assert getattr(made, field.name) == getattr(wanted, field.name)


def test_options_left_out_are_those_of_a_trainee() -> None:
    made, wanted = sd.Recipe(MAKE).trainee(), sd.Trainee(MAKE())
    assert (made.lr, made.schedule, made.penalties) == (wanted.lr, wanted.schedule, wanted.penalties)


def test_each_trainee_has_a_dictionary_of_its_own() -> None:
    recipe = sd.Recipe(MAKE, penalties=iter([sd.L1(0.1)]))
    first, second = recipe.trainee(), recipe.trainee(generator=torch.Generator().manual_seed(1))
    assert first.dictionary is not second.dictionary
    assert repr(first.penalties) == repr(second.penalties) == "(L1(coefficient=0.1),)"  # the iterator is read once


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lr": 0.0}, ValueError, "`lr` must"),
        ({"clip_norm": -1.0}, ValueError, "`clip_norm` must"),
        ({"penalties": sd.L1(0.1)}, TypeError, "`penalties` must be a list"),
        ({"schedule": 3}, TypeError, "`schedule` must be a Schedule"),
        ({"penalty": []}, TypeError, "must be one of penalties, .*, got 'penalty'"),
        ({"dictionary": None}, TypeError, "must be one of penalties, .*, got 'dictionary'"),
    ],
)
def test_wrong_options_are_found_before_a_dictionary_is_made(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        sd.Recipe(MAKE, **options)


@pytest.mark.as_installed
def test_rejects_a_dictionary_in_place_of_its_maker_and_the_reverse() -> None:
    for wrong in (3, MAKE()):  # a dictionary can be called, too
        with pytest.raises(TypeError, match="`make` must be a class or a function"):
            sd.Recipe(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"`dictionary` must be a sparsedict\.Dictionary"):
        sd.Recipe(lambda: 3).trainee()  # pyright: ignore[reportArgumentType]
