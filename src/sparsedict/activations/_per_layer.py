"""`PerLayer`, which applies an activation within each layer of a dictionary over several layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sparsedict import checks
from sparsedict.activations._activation import Activation, State
from sparsedict.latents import Encoding, Support
from sparsedict.selections import Above, Blockwise, Selection
from sparsedict.splits import join, split


@dataclass(frozen=True)
class PerLayer(Activation):
    """Applies an activation separately to the latents of each layer of a dictionary.

    In a dictionary over several layers, ``TopK(32)`` selects 32 latents among all layers, and ``PerLayer(TopK(32))``
    selects 32 latents in each layer. Measured values, such as the threshold of BatchTopK, are separate for each layer.

    Args:
        activation: An activation that selects among latents, such as TopK, BatchTopK, AbsTopK or GroupMax; or a tuple
            of activations of the same class, one for each layer.
        n_latents: Number of latents of each layer. Dictionaries over several layers set it. Pass it to treat blocks of
            consecutive latents of other dictionaries as layers.

    Raises:
        ValueError: If the activation is elementwise, so that layers have no effect.

    Example:
        >>> import torch
        >>> from sparsedict.activations import TopK
        >>> activation = PerLayer(TopK(1), n_latents=(2, 2))
        >>> activation.support(torch.tensor([[3.0, 2.0, 1.0, 0.5]]), {}, training=False).latents
        tensor([0, 2])
    """

    activation: Activation | tuple[Activation, ...]
    n_latents: tuple[int, ...] | None = None

    elementwise = False

    def __post_init__(self) -> None:
        given = self.activation if isinstance(self.activation, tuple) else (self.activation,)
        for own in given:
            if not isinstance(own, Activation) or isinstance(own, PerLayer):
                raise TypeError(
                    "`activation` must be an Activation such as `sd.TopK(32)`, or a tuple of one for each layer, got "
                    f"{own!r}."
                )
            if own.elementwise:
                raise ValueError(
                    f"`activation` must select among latents, as TopK and BatchTopK do, got {own!r}, which is "
                    "elementwise. Pass it without PerLayer."
                )
        if not given or len({type(own) for own in given}) > 1:
            raise ValueError(f"`activation` must be of one class in all layers, got {self.activation!r}.")
        if self.n_latents is not None:
            checks.instance("n_latents", self.n_latents, Iterable, "the numbers of latents of the layers")
            sizes = tuple(checks.at_least("n_latents", size, 0) for size in self.n_latents)
            object.__setattr__(self, "n_latents", sizes)
            if isinstance(self.activation, tuple) and len(self.activation) != len(sizes):
                raise ValueError(
                    f"`activation` must have one entry for each of {len(sizes)} layers, got {len(self.activation)}."
                )

    @property
    def non_negative(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._first.non_negative

    @property
    def by_magnitude(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._first.by_magnitude

    @property
    def _first(self) -> Activation:
        return self.activation[0] if isinstance(self.activation, tuple) else self.activation

    @property
    def _sizes(self) -> tuple[int, ...]:
        if self.n_latents is None:
            raise ValueError(
                f"{self!r} needs a dictionary over several layers, such as `sd.CrossLayerDistiller`. Pass "
                f"{self.activation!r} itself, or the number of latents of each block as `n_latents`."
            )
        return self.n_latents

    def _layers(self) -> Iterator[tuple[int, Activation]]:
        """Yields the index and the activation of each layer that has latents."""
        return ((index, self.of_layer(index)) for index, size in enumerate(self._sizes) if size)

    def at_layers(self, n_latents: tuple[int, ...]) -> PerLayer:
        if self.n_latents is not None and self.n_latents != tuple(n_latents):
            raise ValueError(
                f"`n_latents` of {self!r} must equal the numbers of latents of the dictionary's layers, "
                f"{tuple(n_latents)}. Leave it out."
            )
        return replace(self, n_latents=tuple(n_latents))

    def of_layer(self, index: int) -> Activation:
        return self.activation[index] if isinstance(self.activation, tuple) else self.activation

    def state_of_layer(self, state: State, index: int) -> State:
        end = f"_{index}"
        return {name.removesuffix(end): value for name, value in state.items() if name.endswith(end)}

    def check(self, n_latents: int) -> None:
        if sum(self._sizes) != n_latents:
            raise ValueError(f"`n_latents` of {self!r} must add up to {n_latents}, the latents of the dictionary.")
        for index, own in self._layers():
            own.check(self._sizes[index])
            for name, value in {**own.initial_state(1), **own.training_state(1)}.items():
                if value.ndim:
                    raise ValueError(
                        f"`activation` of PerLayer must have a state of scalars, but {name!r} of {own!r} has shape "
                        "[n_latents]."
                    )

    def for_subset(self, n_latents: int) -> Activation:
        raise ValueError(
            f"`latents` must be None for the activation {self!r}, which depends on the latents of each layer. Load all "
            "latents."
        )

    def for_subset_of_layers(self, n_latents: tuple[int, ...]) -> PerLayer:
        layers = [self.of_layer(index) for index in range(len(n_latents))]
        fewer = [own.for_subset(size) if size else own for own, size in zip(layers, n_latents, strict=True)]
        return PerLayer(tuple(fewer), n_latents)

    def initial_state(self, n_latents: int) -> dict[str, Tensor]:
        # Layers without latents have a state too, so that a file of all latents can be loaded in part.
        return self._named({index: self.of_layer(index).initial_state(size) for index, size in enumerate(self._sizes)})

    def training_state(self, n_latents: int) -> dict[str, Tensor]:
        return self._named({index: self.of_layer(index).training_state(size) for index, size in enumerate(self._sizes)})

    @staticmethod
    def _named(states: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
        return {f"{name}_{index}": value for index, state in states.items() for name, value in state.items()}

    def begin_(self, state: State, *, latents: float, is_new: bool) -> None:
        for index, own in self._layers():
            own.begin_(self.state_of_layer(state, index), latents=latents, is_new=is_new)

    def values(self, pre: Float[Tensor, "*entries"], state: State) -> Float[Tensor, "*entries"]:
        return self._first.values(pre, {})

    def selection(self, state: State, *, training: bool) -> Selection | None:
        return self._joined([own.selection(part, training=training) for own, part in self._with_state(state)])

    def competition(self, state: State, *, training: bool) -> Selection | None:
        return self._joined([own.competition(part, training=training) for own, part in self._with_state(state)])

    def for_shard(self, n_ranks: int, n_latents: tuple[int, ...]) -> PerLayer:
        pairs = [(self.of_layer(index), size) for index, size in enumerate(n_latents)]
        own = tuple(one.for_shard(n_ranks, (size,)) if size else one for one, size in pairs)
        return PerLayer(own, n_latents)

    def _with_state(self, state: State) -> Iterator[tuple[Activation, State]]:
        return ((self.of_layer(index), self.state_of_layer(state, index)) for index in range(len(self._sizes)))

    def _joined(self, found: list[Selection | None]) -> Selection | None:
        """Returns one rule, given the rule of each layer."""
        sizes, rules = self._sizes, []
        for rule, size in zip(found, self._sizes, strict=True):
            rule = rule if size else Above(torch.zeros((), device="cpu", dtype=torch.float32))
            if rule is None:
                return None
            rules.append(rule)
        if all(isinstance(rule, Above) for rule in rules):
            return Above(torch.cat([rule.threshold.expand(size) for rule, size in zip(rules, sizes, strict=True)]))
        return Blockwise(tuple(rules), sizes)

    def support(self, pre: Float[Tensor, "n_tokens n_latents"], state: State, *, training: bool) -> Support | None:
        supports = []
        for index, block in enumerate(pre.split(self._sizes, dim=-1)):
            own: Support | None = Support.empty(len(block), block.device)
            if block.shape[-1]:
                own = self.of_layer(index).support(block, self.state_of_layer(state, index), training=training)
            if own is None:
                return None
            supports.append(own)
        return join(supports)

    def measure_encoding_(self, encoding: Encoding, state: State, *, step: int) -> None:
        for index, own, part in self._encodings(encoding):
            own.measure_encoding_(part, self.state_of_layer(state, index), step=step)

    def end_encoding_(self, encoding: Encoding, state: State, *, n_steps: int) -> None:
        for index, own, part in self._encodings(encoding):
            own.end_encoding_(part, self.state_of_layer(state, index), n_steps=n_steps)

    def _encodings(self, encoding: Encoding) -> Iterator[tuple[int, Activation, Encoding]]:
        """Yields the index, the activation and the encoding of each layer that has latents."""
        values, supports = encoding.values.detach(), ()
        if encoding.support is None:
            parts = values.split(self._sizes, dim=-1)
        else:
            found = split(encoding.support, self._sizes)
            parts, supports = found.take(values), found.supports
        for index, own in self._layers():
            support = supports[index] if supports else None
            yield index, own, Encoding(parts[index], parts[index], support, encoding.gather)

    @property
    def is_measured(self) -> bool:
        return self._first.is_measured

    def move_thresholds_(self, state: State, amount: Float[Tensor, ""]) -> None:
        for index, own in self._layers():
            own.move_thresholds_(self.state_of_layer(state, index), amount)

    def units(self, latents: float) -> dict[str, float]:
        return {f"{name}_{i}": unit for i, own in self._layers() for name, unit in own.units(latents).items()}
