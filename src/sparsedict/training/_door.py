"""Checks of `fit_many`'s arguments against each other and the data, before anything is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sparsedict import checks
from sparsedict.data import Batches
from sparsedict.training._trainee import Trainee
from sparsedict.training._weights import check_shared, check_weights
from sparsedict.types import ActivationBatch


def check_checkpoint(checkpoint: Any, every: Any, keep: Any, resume: bool) -> None:
    if checkpoint is not None:
        checks.path("checkpoint", checkpoint, "the path of a folder")
        return
    if resume:
        raise ValueError("`checkpoint` must be the folder of the run to go on with where `resume` is True, got None.")
    for name, value in (("checkpoint_every", every), ("checkpoint_keep", keep)):
        if value is not None:
            raise ValueError(
                f"`checkpoint` must be a folder where `{name}` is given, got None with {name}={value!r}: nothing would "
                "be written."
            )


def check_callbacks(callbacks: Any) -> list[Any]:
    """Returns callbacks as a list."""
    if callable(callbacks) or not isinstance(callbacks, Iterable):
        raise TypeError(f"`callbacks` must be a list such as [callback], got {callbacks!r}.")
    held = list(callbacks)
    for callback in held:
        if not callable(callback):
            raise TypeError(f"`callbacks` must hold functions of (name, record, dictionary), got {callback!r}.")
    return held


def check_trainees(trainees: Mapping[str, Trainee]) -> None:
    if not isinstance(trainees, Mapping) or not trainees:
        raise ValueError(f"`trainees` must map at least one name to a Trainee, got {trainees!r}.")
    owners: dict[int, str] = {}
    for name, trainee in trainees.items():
        if not isinstance(name, str):
            raise TypeError(f"`trainees` must have names of type str, got {name!r} of type {type(name).__name__}.")
        if not isinstance(trainee, Trainee):
            raise TypeError(f"`trainees[{name!r}]` must be a Trainee(dictionary, ...), got {type(trainee).__name__}.")
        other = owners.setdefault(id(trainee.dictionary), name)
        if other != name:
            raise ValueError(f"`trainees` {other!r} and {name!r} train the same dictionary: make a copy of it.")
        check_weights(f"trainees[{name!r}].dictionary" if name else "dictionary", trainee.dictionary)
    check_shared({name: trainee.dictionary for name, trainee in trainees.items()})


def check_sites(trainees: Mapping[str, Trainee], batches: Batches) -> None:
    for name, trainee in trainees.items():
        label = f"trainees[{name!r}].site" if name else "site"
        if batches.names is None and trainee.site is not None:
            raise ValueError(f"`{label}` must be None, for the data has one site without a name, got {trainee.site!r}.")
        if batches.names is not None and len(batches.names) > 1 and trainee.site is None:
            raise ValueError(f"`{label}` must be one of the data's sites {list(batches.names)}, got None.")
        if batches.names is not None and trainee.site is not None and trainee.site not in batches.names:
            raise ValueError(f"`{label}` must be one of the data's sites {list(batches.names)}, got {trainee.site!r}.")
        dictionary = trainee.dictionary
        if not batches.has_pairs(trainee.site) and dictionary.reads != dictionary.writes:
            raise TypeError(
                f"`data` must hold inputs and outputs for a {type(dictionary).__name__}, which reads an MLP's "
                f"{dictionary.reads} and gives its {dictionary.writes}, got one tensor. Pass a tuple of two tensors or "
                "an ActivationStream."
            )


def check_widths(name: str, trainee: Trainee, batch: ActivationBatch) -> None:
    dictionary = trainee.dictionary
    label = f"trainees[{name!r}]" if name else "dictionary"
    inputs, targets = dictionary.select(batch)
    for role, part, width, attribute in (
        (dictionary.reads, inputs, dictionary.d_in, "d_in"),
        (dictionary.writes, targets, dictionary.d_out, "d_out"),
    ):
        if part.shape[-1] != width:
            raise ValueError(
                f"`{label}.{attribute}` must equal the width of the data's {role}, {part.shape[-1]}, got {width}."
            )
