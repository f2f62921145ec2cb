"""`Recipe`, a description of how to construct and train a dictionary that doesn't exist yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType, SimpleNamespace
from typing import Any

from sparsedict.dictionaries import Dictionary
from sparsedict.training._trainee import Trainee, check_options


@dataclass(frozen=True, init=False)
class Recipe:
    """A `Trainee` whose dictionary is constructed later, for instance once for each site and width.

    Args:
        make: A callable that returns a new dictionary: a dictionary class, a ``functools.partial`` of a class, or a
            function.
        options: Arguments of `Trainee`, except the dictionary. They are checked immediately.

    Raises:
        TypeError: If `Trainee` has no such option, or if an option has the wrong type.
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
                f"{type(make).__name__}. Pass an existing dictionary to `Trainee` instead."
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
        """Constructs the dictionary with the given arguments and returns a `Trainee` for it.

        Raises:
            TypeError: If ``make`` doesn't return a dictionary.
            ValueError: If an option is incompatible with the dictionary.
        """
        return Trainee(self.make(*args, **kwargs), **self.options)
