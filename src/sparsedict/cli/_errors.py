"""Conversion of library errors to one-line messages in which options replace arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from sparsedict.parallel import RankError
from sparsedict.training import NonFiniteLossError

USER_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError, torch.OutOfMemoryError, RankError)
"""Exceptions that the user can correct."""

ARGUMENTS = {
    "path": "--out",
    "checkpoint": "--out",
    "tokens": "--data",
    "train_tokens": "--data",
    "data": "--data",
    "held_out_tokens": "--held-out",
    "model": "MODEL",
    "coefficient": "--l1 or --l0",
    "progress": "--quiet",
}
"""Options by the name of the corresponding argument, if the names differ."""

_FORMS = (
    (re.compile(r"`Site\(model, '([^']*)'\)`"), r"--site \1"),
    (re.compile(r"`reads=` and `writes=`"), "--site READS..WRITES"),
    (re.compile(r"\bPass (its|the) neurons explicitly: "), r"In Python, pass \1 neurons explicitly: "),
    (re.compile(r"needs the index of the call: "), "needs the index of the call, in Python: "),
    (re.compile(r"^`neurons` (looked|needs)"), r"The search for neurons \1"),
    (re.compile(r"`neurons` (looked|needs)"), r"the search for neurons \1"),
)
"""Forms of Python in messages about sites, and their forms on the command line."""

_NAME = re.compile(r"`([a-z][a-z0-9_]*)`")
_PASS = re.compile(r"\b([Pp])ass ((?:resume|force)=True)")
_TWO_ENDS = re.compile(r"reads='([^']*):in', writes='([^']*):out'")
_SWITCH = re.compile(r"\b(resume|force)=True")


class OptionError(ValueError):
    """Raised if an option has a wrong value. The message names options instead of arguments of the library."""


def missing_ranks(error: BaseException) -> tuple[int, ...]:
    """Returns the numbers of the processes that ended without an error."""
    return error.missing if isinstance(error, RankError) else ()


def message_of(error: BaseException, args: argparse.Namespace) -> str:
    """Returns the message of an error on one line, with arguments replaced by options."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return (
            f"{getattr(args, 'device', None) or 'The machine'} ran out of memory. Lower --batch-size, --n-latents or "
            f"--expansion, use fewer sites, or load the model in bfloat16 (--dtype). ({_one_line(error)})"
        )
    if isinstance(error, NonFiniteLossError) and error.lr is not None:
        # Not every command has a learning rate, and none has `clip_norm`.
        lower = f"Lower --lr (it was {error.lr:g}), or look" if hasattr(args, "lr") else "Look"
        return f"{_one_line_of(error.found)} {lower} for outliers in the activations."
    own = {name: f"--{name.replace('_', '-')}" for name in vars(args)}
    # A command without the option has its own words for the argument, see `translated_errors`.
    options = {*own.values(), *(["MODEL"] if "model" in own else [])}
    known = {name: option for name, option in ARGUMENTS.items() if option.partition(" ")[0] in options}
    return translate(_one_line(error) or type(error).__name__, {**own, **known})


def translate(message: str, names: Mapping[str, str]) -> str:
    """Replaces arguments in a message, as in "`lr` must be ...", by options.

    Args:
        message: The message.
        names: Options by argument.
    """
    message = _PASS.sub(lambda found: f"{'Add' if found[1] == 'P' else 'add'} {found[2]}", message)
    message = _SWITCH.sub(r"--\1", message)
    message = _TWO_ENDS.sub(r"'\1..\2'", message)
    for form, words in _FORMS:
        message = form.sub(words, message)
    return _NAME.sub(lambda found: names.get(found[1], found[0]), message)


@contextmanager
def translated_errors(**names: str) -> Iterator[None]:
    """Returns a context that replaces arguments in error messages by options.

    Args:
        names: Options by argument.

    Raises:
        ValueError: For each `ValueError`, `TypeError` or `FileNotFoundError`, with the converted message.
    """
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        message = translate(_words(error), names)
        for name, option in names.items():
            # The message may already contain the default option of this argument.
            message = message.replace(ARGUMENTS.get(name, option), option)
        raise ValueError(message) from error


def _words(error: BaseException) -> str:
    """Returns the message of an error, without the number of a system error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def _one_line(error: BaseException) -> str:
    return _one_line_of(_words(error))


def _one_line_of(text: str) -> str:
    return " ".join(text.split())
