"""`Traffic`, which counts the collectives of a block of code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Collective:
    """One collective operation of this process.

    Attributes:
        name: Name of the operation, such as ``"allreduce_"``.
        n_bytes: Size of the tensor that this process sends.
        shape: Its shape.
    """

    name: str
    n_bytes: int
    shape: tuple[int, ...]


class Traffic(TorchDispatchMode):
    """Context that records the collectives of this process, including those of backward passes on the CPU.

    Attributes:
        collectives: The operations in their order.

    Example:
        >>> import torch
        >>> with Traffic() as traffic:
        ...     _ = torch.ones(2) + 1
        >>> traffic.collectives
        []
    """

    def __init__(self) -> None:
        super().__init__()
        self.collectives: list[Collective] = []

    @property
    def n_bytes(self) -> int:
        """Number of bytes that this process passed to collectives."""
        return sum(own.n_bytes for own in self.collectives)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.partition("::")[2]
            # The first tensor of a gather is its result.
            sent = _first_tensor(args[1:] if "gather" in name else args)
            if sent is not None:
                self.collectives.append(Collective(name, sent.nbytes, tuple(sent.shape)))
        return func(*args, **(kwargs or {}))


def _first_tensor(args: Any) -> Tensor | None:
    if isinstance(args, Tensor):
        return args
    if isinstance(args, list | tuple):
        return next((found for item in args if (found := _first_tensor(item)) is not None), None)
    return None
