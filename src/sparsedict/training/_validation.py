"""Validation of the arguments of `fit_many`, before training starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsedict import checks
from sparsedict.batches import ROLES, Activations, MissingPointError, Points, names_of
from sparsedict.data import Batches
from sparsedict.parallel import Parallel
from sparsedict.penalties import Penalty
from sparsedict.training._settings import differences
from sparsedict.training._step_hook import StepHook
from sparsedict.training._trainee import Trainee
from sparsedict.training._weights import check_shared, check_weights


def check_checkpoint(checkpoint: Any, every: Any, keep: Any, resume: bool) -> None:
    if checkpoint is not None:
        checks.path("checkpoint", checkpoint, "the path of a folder")
        return
    checks.resumed(resume, checkpoint)
    for name, value in (("checkpoint_every", every), ("checkpoint_keep", keep)):
        if value is not None:
            raise ValueError(
                f"`checkpoint` must be a folder if `{name}` is given, got None with {name}={value!r}. Pass "
                f"`checkpoint=FOLDER`, or leave `{name}` out."
            )


def check_callbacks(callbacks: Any) -> list[Any]:
    """Checks callbacks and returns them as a list."""
    if callable(callbacks) or not isinstance(callbacks, Iterable):
        raise TypeError(f"`callbacks` must be a list such as [callback], got {callbacks!r}.")
    held = list(callbacks)
    for callback in held:
        if isinstance(callback, StepHook):
            raise TypeError(f"`callbacks` must not contain step hooks, got {callback!r}. Pass it in `step_hooks`.")
        if isinstance(callback, Penalty):
            raise TypeError(f"`callbacks` must not contain penalties, got {callback!r}. Pass it in `penalties`.")
        if not callable(callback):
            raise TypeError(f"`callbacks` must contain functions of (name, record, dictionary), got {callback!r}.")
    return held


def check_trainees(trainees: Mapping[str, Trainee]) -> tuple[str, ...]:
    """Checks trainees, and returns their names."""
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
            raise ValueError(
                f"`trainees` must have different dictionaries, but {other!r} and {name!r} train the same dictionary. "
                "Pass a copy of it to one of them."
            )
        check_weights(f"trainees[{name!r}].dictionary" if name else "dictionary", trainee.dictionary)
    check_shared({name: trainee.dictionary for name, trainee in trainees.items()})
    return tuple(trainees)


def check_points(trainees: Mapping[str, Trainee], batches: Batches) -> list[tuple[str, ...]]:
    """Checks that the data contains the points that the dictionaries read and write.

    Returns:
        The points that each dictionary reads, and those that it writes, by their names in the data.

    Raises:
        TypeError: If a dictionary reads and writes different points, but the data has a single tensor for both.
        ValueError: If the data lacks a site or a point.
    """
    groups: list[tuple[str, ...]] = []
    for name, trainee in trainees.items():
        label = f"trainees[{name!r}].site" if name else "site"
        check_site(label, trainee.site, batches.names)
        dictionary = trainee.dictionary
        reads, writes = _shown(dictionary.reads), _shown(dictionary.writes)
        try:
            found = [batches.resolve(points, trainee.site) for points in (dictionary.reads, dictionary.writes)]
        except MissingPointError as error:
            if trainee.site is None and batches.names is not None and dictionary.reads in ROLES:
                raise ValueError(
                    f"`{label}` must be one of the data's sites {list(batches.names)}, got None."
                ) from None
            subject = f"dictionary {name!r}" if name else f"a {type(dictionary).__name__}"
            raise MissingPointError(
                f"`data` must have the points of {subject}, which reads {reads} and writes {writes}. {error}"
            ) from None
        if found[0] == found[1] and dictionary.reads != dictionary.writes:
            raise TypeError(
                f"`data` must contain inputs and outputs for a {type(dictionary).__name__}, which reads the {reads} of "
                f"an MLP and writes its {writes}, got the same tensor for both. Pass a tuple (inputs, outputs) or an "
                "ActivationStream."
            )
        groups += found
    return groups


def check_same_call(settings: Mapping[str, Any], parallel: Parallel) -> None:
    """Checks that all ranks of a run make the same call."""
    expected = parallel.share(settings)

    def compare() -> None:
        changes = list(differences(expected, settings))
        if changes:
            raise ValueError(
                f"The calls of all ranks must be the same, but on rank {parallel.rank}, compared with rank 0, "
                f"{'; '.join(changes[:6])}. Make the same call on all ranks."
            )

    parallel.together(compare)


def check_site(label: str, site: str | tuple[str, ...] | None, names: Sequence[str] | None) -> None:
    """Checks that the data has the sites of a trainee."""
    if names is None and site is not None:
        raise ValueError(f"`{label}` must be None, because the data has one site without a name, got {site!r}.")
    for own in names_of(site or ()):
        if own not in (names or ()):
            raise ValueError(f"`{label}` must be one of the data's sites {list(names or ())}, got {own!r}.")


def _shown(points: Points) -> str:
    return points if isinstance(points, str) else ", ".join(points)


def check_widths(name: str, trainee: Trainee, batch: Activations) -> None:
    dictionary = trainee.dictionary
    label = f"trainees[{name!r}]" if name else "dictionary"
    inputs, targets = dictionary.select(batch)
    for points, part, width, attribute in (
        (dictionary.reads, inputs, dictionary.d_in, "d_in"),
        (dictionary.writes, targets, dictionary.d_out, "d_out"),
    ):
        if part.shape[-1] != width:
            raise ValueError(
                f"`{label}.{attribute}` must equal the width of the data's {_shown(points)}, {part.shape[-1]}, "
                f"got {width}."
            )
