"""Errors of the library in the words of the command line: options instead of arguments, one line, no traceback."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from sparsedict.training import NonFiniteLossError

USER_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError, torch.OutOfMemoryError)
"""Errors that the user can remedy."""

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
"""Options by the name of the argument that they become, where that isn't the option's own name."""

_NAME = re.compile(r"`([a-z][a-z0-9_]*)`")
_PASS = re.compile(r"\b([Pp])ass ((?:resume|force)=True)")
_TWO_ENDS = re.compile(r"reads='([^']*):in', writes='([^']*):out'")
_SWITCH = re.compile(r"\b(resume|force)=True")


def message_of(error: BaseException, args: argparse.Namespace) -> str:
    """Returns the message of an error in one line, with options for arguments."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return (
            f"{getattr(args, 'device', None) or 'The machine'} ran out of memory. Lower --batch-size, --n-latents or "
            f"--expansion, take fewer sites, or load the model in bfloat16 (--dtype). ({_one_line(error)})"
        )
    if isinstance(error, NonFiniteLossError) and error.lr is not None:
        # Not every command takes a learning rate, and none takes `clip_norm`.
        lower = f"Lower --lr (it was {error.lr:g}), or look" if hasattr(args, "lr") else "Look"
        return f"{_one_line_of(error.found)} {lower} for outliers in the activations."
    own = {name: f"--{name.replace('_', '-')}" for name in vars(args)}
    return in_options(_one_line(error) or type(error).__name__, {**own, **ARGUMENTS})


def in_options(message: str, names: Mapping[str, str]) -> str:
    """Returns a message with options in the place of arguments, as in "`lr` must be ...".

    Args:
        message: The message.
        names: Options by argument.
    """
    message = _PASS.sub(lambda found: f"{'Add' if found[1] == 'P' else 'add'} {found[2]}", message)
    message = _SWITCH.sub(r"--\1", message)
    message = _TWO_ENDS.sub(r"'\1..\2'", message)
    return _NAME.sub(lambda found: names.get(found[1], found[0]), message)


@contextmanager
def speaking_of(**names: str) -> Iterator[None]:
    """Lets errors raised within it speak of options.

    Args:
        names: Options by argument.

    Raises:
        ValueError: For a `ValueError` or `TypeError`, with the message in other words.
    """
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError) as error:
        message = in_options(_words(error), names)
        for name, option in names.items():
            # What names the option already names the usual one.
            message = message.replace(ARGUMENTS.get(name, option), option)
        raise ValueError(message) from error


def _words(error: BaseException) -> str:
    """Returns the message of an error, of the system's without its number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def _one_line(error: BaseException) -> str:
    return _one_line_of(_words(error))


def _one_line_of(text: str) -> str:
    return " ".join(text.split())
