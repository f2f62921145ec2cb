"""`Adapter`: one interface to dictionaries, neurons, and other libraries' objects that encode and decode."""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeGuard

from jaxtyping import Float
from torch import Tensor, nn

from sparsedict.batches import ROLES, Activations, Points, names_of
from sparsedict.latents import SparseLatents
from sparsedict.types import Role

N_DENSE = 2**24
"""Largest number of entries of a dense ``[n_tokens, n_latents]`` array (64 MiB in float32)."""


class Adapter:
    """Encodes and reconstructs through a dictionary, through neurons, or through another library's object.

    The object must have ``encode``, from activations ``[*batch, d_in]`` to latents ``[*batch, n_latents]``.
    Reconstructions also need ``decode``, from latents to activations ``[*batch, d_out]``. If the object
    has them, the adapter also uses the attributes ``reads``, ``writes``, ``d_in``, ``d_out`` and ``n_latents``; the
    method ``reconstruct(latents, x)``, which may depend on the input (a skip connection); and ``encode_sparse(x)``,
    which returns `SparseLatents`.

    An adapter has the same methods and attributes. It states once which points another library's object reads and
    writes, and is accepted wherever a dictionary is.

    Args:
        source: A `Dictionary`, `Neurons`, an object with ``encode`` and ``decode``, or an adapter.
        reads: Points that the object reads, such as ``"inputs"`` or ``("0.inputs", "1.inputs")``. Needed only if the
            object has no attribute ``reads``.
        writes: Points that the object writes. By default these are the outputs of the MLPs that it reads, or the
            neurons for an object that reads neurons.
        argument: The name of the caller's parameter, for error messages.

    Raises:
        TypeError: If the object has no ``encode``.
        ValueError: If the object's own attributes name other points, or a name isn't valid.

    Example:
        >>> import torch
        >>> class Halves:
        ...     def encode(self, x):
        ...         return torch.cat([x, -x], -1).relu()
        ...     def decode(self, latents):
        ...         return latents.chunk(2, -1)[0] - latents.chunk(2, -1)[1]
        >>> adapter = Adapter(Halves(), reads="inputs")
        >>> adapter.points
        ('inputs', 'outputs')
        >>> adapter.reconstruct(adapter.encode(torch.ones(2)), torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(
        self,
        source: Any,
        reads: Points | None = None,
        writes: Points | None = None,
        *,
        argument: str = "dictionary",
    ) -> None:
        self.source: Any = source.source if isinstance(source, Adapter) else source
        self.argument: str = argument
        self.require("encode")
        self.reads: Points | None = None
        self.writes: Points | None = None
        self.reads, self.writes = resolve_points(source, reads, writes)

    def __repr__(self) -> str:
        return f"Adapter({type(self.source).__name__}, reads={self.reads!r}, writes={self.writes!r})"

    def require(self, *methods: str) -> None:
        """Raises ``TypeError`` if the object lacks a method."""
        # Text has a method `encode`.
        if isinstance(self.source, str):
            raise TypeError(
                f"`{self.argument}` must be a dictionary, `Neurons` or an object with `encode` and `decode`, got "
                f"{self.source!r:.80}. Pass `sd.load(path)`."
            )
        for method in methods:
            if not callable(getattr(self.source, method, None)):
                raise TypeError(
                    f"`{self.argument}` must be a dictionary, `Neurons` or an object with `encode` and `decode`, got "
                    f"{type(self.source).__name__}, which has no `{method}`."
                )

    @property
    def points(self) -> tuple[Points, Points]:
        """The points that the object reads, and the points that it writes.

        Raises:
            ValueError: If the points are unknown.
        """
        if self.reads is None or self.writes is None:
            raise unknown_points(self.source)
        return self.reads, self.writes

    def uses(self, role: str) -> bool:
        """Returns whether the object reads or writes a point of this role, such as ``"neurons"``."""
        return any(name.rpartition(".")[2] == role for points in self.points for name in names_of(points))

    @property
    def d_in(self) -> int | None:
        """Width of the activations that the object reads; ``None`` if unknown."""
        return self._number("d_in")

    @property
    def d_out(self) -> int | None:
        """Width of the activations that the object writes; ``None`` if unknown."""
        return self._number("d_out")

    @property
    def n_latents(self) -> int | None:
        """Number of latents; ``None`` if unknown."""
        return self._number("n_latents")

    def _number(self, name: str) -> int | None:
        value = getattr(self.source, name, None)
        return value if isinstance(value, int) else None

    @property
    def n_rows(self) -> int:
        """Number of rows to encode at once."""
        n_latents = self.n_latents
        return max(1, N_DENSE // (n_latents if n_latents is not None and n_latents > 0 else 2**14))

    @property
    def weight(self) -> Tensor | None:
        """A tensor with the object's device and dtype, such as its encoder or its first floating-point parameter."""
        for name in ("encoder_bias", "encoder"):
            weight = getattr(self.source, name, None)
            if isinstance(weight, Tensor):
                return weight
        if not isinstance(self.source, nn.Module):
            return None
        return next((w for w in chain(self.source.parameters(), self.source.buffers()) if w.is_floating_point()), None)

    def fit(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Converts activations to the object's dtype and device."""
        weight = self.weight
        return x if weight is None else x.to(device=weight.device, dtype=weight.dtype)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Returns dense latents."""
        return self.source.encode(x)

    def encode_sparse(self, x: Float[Tensor, "*batch d_in"]) -> Tensor | SparseLatents:
        """Returns sparse latents if the object can encode and reconstruct sparsely, else dense latents."""
        sparse = callable(getattr(self.source, "encode_sparse", None)) and self._reconstructs
        return self.source.encode_sparse(x) if sparse else self.source.encode(x)

    @property
    def _reconstructs(self) -> bool:
        return callable(getattr(self.source, "reconstruct", None))

    def decode(self, latents: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch d_out"]:
        """Returns the part of the reconstruction that depends on the latents alone."""
        return self.source.decode(latents)

    def reconstruct(
        self, latents: Float[Tensor, "*batch n_latents"] | SparseLatents, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Returns the whole reconstruction, including a skip connection."""
        return self.source.reconstruct(latents, x) if self._reconstructs else self.source.decode(latents)

    def inputs(self, batch: Activations) -> Float[Tensor, "*batch d_in"]:
        """Returns the activations of a batch that the object reads."""
        return self.source.select(batch)[0] if _selects(self.source) else batch.at(self.points[0])

    def targets(self, batch: Activations) -> Float[Tensor, "*batch d_out"]:
        """Returns the activations of a batch that the object should reproduce."""
        return self.source.select(batch)[1] if _selects(self.source) else batch.at(self.points[1])

    def check_widths(self, inputs: Tensor, targets: Tensor) -> None:
        """Raises ``ValueError`` if the object's widths differ from those of the activations."""
        for name, part, verb in (("d_in", inputs, "reads"), ("d_out", targets, "writes")):
            width = self._number(name)
            if width is not None and width != part.shape[-1]:
                raise ValueError(
                    f"`{self.argument}.{name}` must equal the width of the activations that it {verb}, "
                    f"{part.shape[-1]}, got {width}."
                )


def as_role(points: Points | None) -> Role:
    """Returns the role of the single point of a one-site dictionary.

    Raises:
        ValueError: If there are several points.
    """
    names = () if points is None else names_of(points)
    for role in ("inputs", "outputs", "neurons"):
        if len(names) == 1 and names[0].rpartition(".")[2] == role:
            return role
    raise ValueError(f"A dictionary for one site must read one point and write one point, got {points!r}.")


def resolve_points(
    source: Any, reads: Points | None = None, writes: Points | None = None
) -> tuple[Points | None, Points | None]:
    """Returns the points that an object reads and writes; ``None`` if unknown. The object's own attributes come first.

    Args:
        source: A dictionary, or another library's object.
        reads: The points that it reads, if the object has no attribute ``reads``.
        writes: The points that it writes. By default these are the outputs of the MLPs that it reads, or the neurons.

    Raises:
        ValueError: If the object's own attributes name other points, or a name isn't valid.
    """
    found = _resolve(source, "reads", reads)
    target = _resolve(source, "writes", writes)
    return found, _default_writes(found) if target is None and found is not None else target


def unknown_points(source: Any) -> ValueError:
    """Returns the error for an object whose points are unknown."""
    return ValueError(
        f"`reads` must name the point that a {type(source).__name__} reads, such as 'inputs' (it computes the MLP's "
        "output from its input) or 'outputs' (it reproduces the output)."
    )


def _resolve(source: Any, name: str, given: Points | None) -> Points | None:
    own = getattr(source, name, None)
    own = own if _is_points(own) and (_are_known(own) or isinstance(source, Adapter) or _selects(source)) else None
    kind = type(source.source if isinstance(source, Adapter) else source).__name__
    # Arrays have no truth value.
    if given is None or (_is_points(given) and given == own):
        return own
    if own is not None:
        raise ValueError(f"`{name}` must be {own!r} for this {kind}, got {given!r:.80}. Leave it out.")
    if not _is_points(given) or not _are_known(given):
        raise ValueError(
            f"`{name}` must be 'inputs', 'outputs' or 'neurons', with the site's name in front if there are several "
            f"sites ('0.inputs'), or a tuple of such names, got {given!r:.80}."
        )
    return given


def _default_writes(reads: Points) -> Points:
    names = []
    for point in names_of(reads):
        site, dot, role = point.rpartition(".")
        names.append(f"{site}{dot}{'neurons' if role == 'neurons' else 'outputs'}")
    return names[0] if isinstance(reads, str) else tuple(dict.fromkeys(names))


def _is_points(value: object) -> TypeGuard[Points]:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(name, str) for name in value)
    return isinstance(value, str)


def _are_known(points: Points) -> bool:
    return all(name.rpartition(".")[2] in ROLES for name in names_of(points))


def _selects(source: Any) -> bool:
    """Whether an object has a method ``select`` that picks its inputs and targets from a batch, as dictionaries do."""
    return all(_is_points(getattr(source, name, None)) for name in ("reads", "writes")) and callable(
        getattr(source, "select", None)
    )
