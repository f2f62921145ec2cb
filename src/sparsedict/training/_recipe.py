"""How a dictionary that doesn't exist yet is to be made and trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType, SimpleNamespace
from typing import Any

from sparsedict.dictionaries import Dictionary
from sparsedict.training._trainee import Trainee, check_options


@dataclass(frozen=True, init=False)
class Recipe:
    """A `Trainee` whose dictionary is made later, such as once for each site and width.

    Args:
        make: Returns a new dictionary: a class of dictionaries, a ``functools.partial`` of one, or a function.
        options: Arguments of `Trainee` but the dictionary. They are checked at once.

    Raises:
        TypeError: If an option isn't one of `Trainee`, or of another type.
        ValueError: If a number is out of range.

    Example:
        >>> import sparsedict as sd
        >>> recipe = Recipe(sd.SparseAutoencoder, penalties=[sd.L1(0.1)], lr=1e-3)
        >>> parts = {"activation": sd.ReLU(), "decoder_norm": sd.UnitNorm()}
        >>> trainees = {str(n): recipe.trainee(8, n, **parts) for n in (16, 32)}
        >>> trainees["32"].lr, trainees["32"].dictionary.n_latents
        (0.001, 32)
    """

    make: Callable[..., Dictionary]
    options: Mapping[str, Any]

    def __init__(self, make: Callable[..., Dictionary], **options: Any) -> None:
        if isinstance(make, Dictionary) or not callable(make):
            raise TypeError(
                "`make` must be a class or a function that returns a dictionary, such as sd.SparseAutoencoder, got "
                f"{type(make).__name__}. Give a dictionary that exists to `Trainee`."
            )
        known = {field.name: field for field in fields(Trainee) if field.name != "dictionary"}
        for name in options:
            if name not in known:
                raise TypeError(f"An option of `Recipe` must be one of {', '.join(known)}, got {name!r}.")
        defaults = {
            name: field.default if field.default_factory is MISSING else field.default_factory()
            for name, field in known.items()
        }
        checked = SimpleNamespace(**{**defaults, **options})
        check_options(checked)
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "options", MappingProxyType({name: getattr(checked, name) for name in options}))

    def trainee(self, *args: Any, **kwargs: Any) -> Trainee:
        """Makes the dictionary, with the arguments given, and returns how it is to be trained.

        Raises:
            TypeError: If what is made isn't a dictionary.
            ValueError: If an option doesn't fit the dictionary.
        """
        return Trainee(self.make(*args, **kwargs), **self.options)
