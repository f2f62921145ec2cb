"""`Activations`, which contains the activations of a batch of tokens by point of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsedict.batches._points import Points, aliases, lookup, missing_point, point_name, sites_of
from sparsedict.batches._tensors import PER_TOKEN, check_points, identity, join_columns, map_distinct, side_by_side
from sparsedict.display import short, table


class Activations(Mapping[str, Tensor]):
    """Activations of a batch of tokens: a mapping from a point's name to a tensor ``[*shape, width]``.

    The points of one site are ``"inputs"``, ``"outputs"`` and ``"neurons"``. The points of several sites start with the
    site's name, such as ``"0.inputs"``. In training, ``shape`` is ``(n_tokens,)``. :meth:`Site.capture` returns
    activations in the shape of the tokens, usually ``(n_sequences, n_positions)``, and :meth:`batch` turns the kept
    positions into rows.

    Attributes:
        shape: Leading dimensions of all tensors.
        n_tokens: Number of positions, including those that ``mask`` excludes.

    Args:
        points: Activations by point, ``[*shape, width]`` each.
        tokens: Token ids, ``[*shape]``; ``None`` if unknown.
        positions: Position of each token in its sequence, counted from 0 without padding, ``[*shape]``; ``None`` if
            unknown.
        mask: True at positions that are kept, ``[*shape]``; ``None`` if all are kept. Padding and excluded tokens are
            false.
        attention_mask: False at padding, ``[*shape]``; ``None`` if there is no padding.

    Raises:
        TypeError: If a point's name isn't a string, or its value isn't a floating-point tensor.
        ValueError: If there is no point, a point has a reserved name (``tokens``, ``positions``, ``mask`` or
            ``attention_mask``), or the shapes of the tensors differ.

    Example:
        >>> import torch
        >>> batch = Activations({"0.inputs": torch.zeros(5, 3), "0.outputs": torch.ones(5, 2)})
        >>> batch
        Activations(0.inputs=float32[5, 3], 0.outputs=float32[5, 2])
        >>> batch["0.outputs"].shape, batch.n_tokens, batch.sites
        (torch.Size([5, 2]), 5, ('0',))
    """

    def __init__(
        self,
        points: Mapping[str, Tensor],
        *,
        tokens: Int[Tensor, "*shape"] | None = None,
        positions: Int[Tensor, "*shape"] | None = None,
        mask: Bool[Tensor, "*shape"] | None = None,
        attention_mask: Bool[Tensor, "*shape"] | None = None,
    ) -> None:
        if not points:
            raise ValueError("`points` must name at least one point, got an empty mapping.")
        check_points(points)
        self._tensors: dict[str, Tensor] = dict(points)
        self._parts: dict[str, tuple[str, ...]] = {name: (name,) for name in self._tensors}
        self.tokens = tokens
        self.positions = positions
        self.mask = mask
        self.attention_mask = attention_mask
        self._check()
        self.shape: torch.Size = next(iter(self._tensors.values())).shape[:-1]
        self.n_tokens: int = self.shape.numel()

    def _check(self) -> None:
        first, value = next(iter(self._tensors.items()))
        for name, other in self._tensors.items():
            if other.shape[:-1] != value.shape[:-1]:
                got = [len(part) if part.ndim == 2 else tuple(part.shape[:-1]) for part in (other, value)]
                raise ValueError(f"`{name}` must contain as many tokens as `{first}`, got {got[0]} and {got[1]}.")
        for name, other in self._per_token():
            if other.shape != value.shape[:-1]:
                raise ValueError(
                    f"`{name}` must have the leading shape of the activations, {tuple(value.shape[:-1])}, got "
                    f"{tuple(other.shape)}."
                )

    def _per_token(self) -> Iterator[tuple[str, Tensor]]:
        for name in PER_TOKEN:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def __getitem__(self, point: str) -> Float[Tensor, "*shape width"]:
        names = self._parts.get(point)
        if names is None:
            raise missing_point(point, self)
        return self._columns(names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, point: object) -> bool:
        return point in self._parts

    def at(self, points: Points) -> Float[Tensor, "*shape width"]:
        """Returns the activations at a point, or at several points concatenated along the last dimension.

        Args:
            points: A name or a tuple of names.

        Raises:
            MissingPointError: If there is no such point. The error is both a ``ValueError`` and a ``KeyError``.
        """
        names = (points,) if isinstance(points, str) else points
        parts = self._parts
        return self._columns([part for name in names for part in parts[name if name in parts else lookup(name, parts)]])

    def _columns(self, names: Sequence[str]) -> Tensor:
        tensors = [self._tensors[name] for name in names]
        return tensors[0] if len(tensors) == 1 else side_by_side(tensors)

    @property
    def inputs(self) -> Float[Tensor, "*shape d_in"]:
        """Input of the MLP of a single site."""
        return self.at("inputs")

    @property
    def outputs(self) -> Float[Tensor, "*shape d_out"]:
        """Output of the MLP of a single site."""
        return self.at("outputs")

    @property
    def neurons(self) -> Float[Tensor, "*shape n_neurons"]:
        """Hidden activations of the MLP of a single site."""
        return self.at("neurons")

    @property
    def kept(self) -> Bool[Tensor, "*shape"]:
        """True at positions that are kept. All are kept if there is no :attr:`mask`."""
        if self.mask is not None:
            return self.mask
        return torch.ones(self.shape, dtype=torch.bool, device=next(iter(self._tensors.values())).device)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites of the points; empty for a single site without a name."""
        return sites_of(self._tensors)

    def site(self, name: str | tuple[str, ...] | None) -> Activations:
        """Returns a view in which the points of a site also have names without the site, such as ``inputs``.

        Args:
            name: Name of a site, or of several, whose activations are concatenated point by point. ``None`` stands for
                the only site.

        Raises:
            ValueError: If there is no such site.

        Example:
            >>> import torch
            >>> batch = Activations({"0.outputs": torch.zeros(5, 3), "1.outputs": torch.zeros(5, 2)})
            >>> batch.site("1").outputs.shape, batch.site(("0", "1")).outputs.shape
            (torch.Size([5, 2]), torch.Size([5, 5]))
        """
        view = self._like(self._tensors, dict(self._per_token()))
        view._parts = aliases(self._tensors, name)
        return view

    def batch(self) -> Activations:
        """Returns the kept positions as rows ``[n_tokens, width]``, in the order of the text."""
        mask = self.mask
        if mask is None:
            rows = self.map(lambda value: value.flatten(0, len(self.shape) - 1) if len(self.shape) != 1 else value)
        else:
            rows = self.map(lambda value: value[mask.to(value.device)])
        rows.mask = rows.attention_mask = None
        return rows

    def rows(self, index: slice | Int[Tensor, " n_rows"]) -> Activations:
        """Returns a selection of the rows of a batch ``[n_tokens, width]``.

        Args:
            index: A slice, or row indices.
        """
        if isinstance(index, slice):
            return self.map(lambda value: value[index])
        return self.map(lambda value: value.index_select(0, index.to(value.device)))

    def map(self, function: Callable[[Tensor], Tensor]) -> Activations:
        """Applies a function to every tensor, including ids, positions and masks.

        If several points share a tensor, the function is called once for it.
        """
        found = map_distinct(function, [dict((*self._tensors.items(), *self._per_token()))])
        mapped = self._like({name: found[name] for name in self._tensors}, found)
        mapped._parts = self._parts
        return mapped

    def distinct(self) -> dict[str, Tensor]:
        """Returns each distinct tensor once, by the name of its first point; ids and positions by their own names."""
        first: dict[object, str] = {}
        values = dict((*self._tensors.items(), *self._per_token()))
        for name, value in values.items():
            first.setdefault(identity(value), name)
        return {name: values[name] for name in first.values()}

    @classmethod
    def _like(cls, tensors: dict[str, Tensor], per_token: Mapping[str, Tensor]) -> Activations:
        """Creates activations without checks. A training step creates several."""
        new = cls.__new__(cls)
        new._tensors = tensors
        new._parts = {name: (name,) for name in tensors}
        new.shape = next(iter(tensors.values())).shape[:-1]
        new.n_tokens = new.shape.numel()
        new.tokens, new.positions, new.mask, new.attention_mask = (per_token.get(name) for name in PER_TOKEN)
        return new

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Activations:
        """Converts the activations to a device and dtype. Ids, positions and masks keep their dtype."""
        return self.map(lambda value: value.to(device, dtype if value.is_floating_point() else None))

    def joined(self, groups: Iterable[Sequence[str]]) -> Activations:
        """Returns the same activations, in which those of each group of points are the columns of one tensor.

        :meth:`at` then returns the points of a group without a copy. Points of several groups, and points that share a
        tensor with another point, stay as they are.

        Args:
            groups: Names of points.
        """
        joined = self._like(join_columns(self._tensors, groups), dict(self._per_token()))
        joined._parts = self._parts
        return joined

    def detach(self) -> Activations:
        """Returns the activations, detached from the autograd graph."""
        return self.map(Tensor.detach)

    @classmethod
    def cat(cls, batches: Sequence[Activations]) -> Activations:
        """Concatenates batches of rows with the same points."""
        first = batches[0]
        names = [name for name, _ in first._per_token() if all(getattr(batch, name) is not None for batch in batches)]
        values = [{**batch._tensors, **{name: getattr(batch, name) for name in names}} for batch in batches]
        found = map_distinct(lambda *parts: torch.cat(parts), values)
        result = cls._like({name: found[name] for name in first._tensors}, found)
        result._parts = first._parts
        return result

    @classmethod
    def from_sites(cls, by_site: Mapping[str, Activations]) -> Activations:
        """Combines activations of the same tokens at several sites. Point names start with the name of their site.

        Args:
            by_site: Activations by site. Points of a site with an empty name keep their names.

        Raises:
            ValueError: If the shapes of the sites' tensors differ.
        """
        points = {point_name(site, point): own[point] for site, own in by_site.items() for point in own._tensors}
        first = next(iter(by_site.values()))
        masks = [own.mask for own in by_site.values() if own.mask is not None]
        mask = None
        for other in masks:
            mask = other if mask is None else mask & other.to(mask.device)
        return cls(
            points,
            tokens=first.tokens,
            positions=first.positions,
            mask=mask,
            attention_mask=first.attention_mask,
        )

    def __repr__(self) -> str:
        shown = [f"{name}={short(value)}" for name, value in (*self._tensors.items(), *self._per_token())]
        return f"Activations({', '.join(shown)})"

    def _repr_html_(self) -> str:
        rows: list[tuple[str, ...]] = [(n, short(v)) for n, v in (*self._tensors.items(), *self._per_token())]
        return table("Activations", rows)


def ActivationBatch(  # noqa: N802
    inputs: Float[Tensor, "n_tokens d_in"],
    outputs: Float[Tensor, "n_tokens d_out"],
    neurons: Float[Tensor, "n_tokens n_neurons"] | None = None,
) -> Activations:
    """Returns the `Activations` of one site.

    Args:
        inputs: Input of the MLP, ``[n_tokens, d_in]``.
        outputs: Output of the MLP, ``[n_tokens, d_out]``.
        neurons: The MLP's hidden activations, ``[n_tokens, n_neurons]``.

    Raises:
        ValueError: If the tensors hold different numbers of tokens.
    """
    return Activations({"inputs": inputs, "outputs": outputs, **({} if neurons is None else {"neurons": neurons})})
