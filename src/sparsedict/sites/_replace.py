"""Runs a model with dictionaries in place of its MLPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.sites._axes import check_axes, is_ambiguous
from sparsedict.sites._contribution import Contribution, contribute
from sparsedict.sites._parts import Part, SitePoints, Target, arrange
from sparsedict.sites._passes import ModelPass, Passes, all_uncompiled
from sparsedict.sites._points import Point, Removable
from sparsedict.sites._resolve import ReplacementArguments
from sparsedict.sites._watch import Watch, watched


class ReplacementOrderError(RuntimeError):
    """A dictionary reads a point that the forward pass reaches after a point that the dictionary writes."""


@contextmanager
def replaced(site_points: SitePoints, arguments: ReplacementArguments) -> Iterator[None]:
    """See `Site.replaced` and `Sites.replaced`."""
    parts, targets = arrange(site_points, arguments)
    models = {id(target.model): target.model for target in targets}
    runs = [
        _Replacement(model, [p for p in parts if p.model is model], [t for t in targets if t.model is model])
        for model in models.values()
    ]
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.attached())
        yield
    for run in runs:
        run.check_axes()
        for message in run.unused():
            checks.warn(message, RuntimeWarning)


@dataclass(eq=False)
class _Stored:
    """A value that a later point of the same forward pass needs."""

    value: Tensor | Contribution
    this: ModelPass
    recomputed: bool
    with_gradients: bool

    def belongs_to(self, this: ModelPass, recomputed: bool) -> bool:
        """Whether the value belongs to this forward pass. A pass may end before its values are used."""
        if self.recomputed != recomputed:
            return False
        return self.this is this or not (self.this.is_whole and this.is_whole)


class _Replacement:
    """The dictionaries in one model, and the activations that are stored between its points.

    A dictionary runs when the forward pass reaches the first point that it writes. Its contributions to later points
    are stored until these are reached. At each point, the contributions of all dictionaries add up.
    """

    def __init__(self, model: nn.Module, parts: Sequence[Part], targets: Sequence[Target]) -> None:
        self._model, self._parts = model, tuple(parts)
        self._targets = {target.point: target for target in targets}
        self._sources = tuple(dict.fromkeys(point for part in parts for point in part.reads))
        self._inputs: dict[tuple[int, Point], _Stored] = {}
        self._contributions: dict[tuple[int, Point], _Stored] = {}
        self._n_reached: Counter[Point] = Counter()
        self._n_replaced: Counter[Point] = Counter()
        self._square: dict[Point, int] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Adds hooks to the model. Hooks that a backward pass may need exist as long as its graph."""
        points = (*self._sources, *self._targets)
        with watched(self._model, [point.module for point in self._targets]) as watch, all_uncompiled():
            assert isinstance(watch, Watch)
            passes = Passes(self._model, points)
            handles: list[Removable] = []
            try:
                # All dictionaries read a point before it is replaced.
                for point in self._sources:
                    handles.append(point.attach(partial(self._read, point, passes)))
                for target in self._targets.values():
                    handles.append(target.point.attach(partial(self._write, target, passes, watch)))
                yield
            finally:
                passes.close(handles)
                self._inputs.clear()
                self._contributions.clear()

    def _read(self, point: Point, passes: Passes, value: Tensor) -> None:
        """Stores the activations of a point for the dictionaries that read it."""
        found = passes.at()
        if found is None:
            return
        this, recomputed = found
        if not recomputed and not this.reaches(("source", point), self._model):
            return
        for index, part in enumerate(self._parts):
            if point in part.reads:
                self._inputs[index, point] = _Stored(value, this, recomputed, torch.is_grad_enabled())
                # An earlier pass may have ended before its contributions were used.
                for target in part.writes:
                    self._contributions.pop((index, target), None)

    def _write(self, target: Target, passes: Passes, watch: Watch, original: Tensor) -> Tensor | None:
        """Returns the activations of a point with its replacement at included positions; ``None`` changes nothing."""
        found = passes.at()
        if found is None:
            return None
        this, recomputed = found
        point = target.point
        if not recomputed:
            self._n_reached[point] += 1
            if not this.reaches(("target", point), self._model):
                return None
            self._n_replaced[point] += 1
        elif (n_calls := this.n_calls["target", point]) > 1:
            raise RuntimeError(
                f"`{point.path}` was called {n_calls} times in the forward pass, so it is ambiguous which call "
                "gradient checkpointing recomputes. Disable checkpointing while the site is replaced."
            )
        new = self._replacement(target, original, this, recomputed)
        if not recomputed:
            context = watch.context(point.module)
            this.kept[point] = context.kept(original.shape[:-1], target.exclusion, original.device)
            if this.kept[point] is not None and is_ambiguous(context.shape, original.shape[:-1]):
                self._square[point] = len(original)
        kept = this.kept.get(point)
        return new if kept is None else torch.where(kept.unsqueeze(-1), new, original)

    def _replacement(self, target: Target, original: Tensor, this: ModelPass, recomputed: bool) -> Tensor:
        """Returns the sum of the contributions of all dictionaries, plus the error term if it is requested."""
        total: Contribution | None = None
        for index, part in enumerate(self._parts):
            if target.point in part.writes:
                held = self._contributions.pop((index, target.point), None)
                if held is None or not held.belongs_to(this, recomputed):
                    self._run(index, part, target.point, original.device, this, recomputed)
                    held = self._contributions.pop((index, target.point))
                self._check_gradients(held, part.reads[0], target.point)
                assert isinstance(held.value, Contribution)
                own = held.value.shaped(original, f"`{part.adapter.argument}`")
                total = own if total is None else total + own
        assert total is not None
        if not target.error_term:
            return total.value.to(original.dtype)
        assert total.plain is not None
        # The original plus a difference is exact if no latent is changed.
        return original.detach() + (total.value - total.plain.detach()).to(original.dtype)

    def _run(
        self, index: int, part: Part, target: Point, device: torch.device, this: ModelPass, recomputed: bool
    ) -> None:
        """Runs a dictionary, and stores its contributions to the points that it writes."""
        inputs = [self._take(index, part, source, target, this, recomputed) for source in part.reads]
        needs_plain = any(self._targets[point].error_term for point in part.writes if point in self._targets)
        sums: dict[Point, Contribution] = {}
        for point, own in zip(part.writes, contribute(part, inputs, device, needs_plain), strict=True):
            if point in self._targets:
                sums[point] = sums[point] + own if point in sums else own
        for point, own in sums.items():
            self._contributions[index, point] = _Stored(own, this, recomputed, torch.is_grad_enabled())

    def _take(self, index: int, part: Part, source: Point, target: Point, this: ModelPass, recomputed: bool) -> Tensor:
        """Removes the activations of a source from the stored ones and returns them.

        Raises:
            ReplacementOrderError: If the forward pass has not reached the source.
            RuntimeError: If gradient checkpointing recomputes the target without the source.
        """
        held = self._inputs.pop((index, source), None)
        if held is not None and not held.belongs_to(this, recomputed):
            held = None
        if held is None and not recomputed:
            reason = getattr(part.adapter.source, "unsplit_reason", None) or (
                "A dictionary that reads several layers needs a method `split_sources`. Alternatively, pass a list of "
                "dictionaries that each read one layer."
            )
            raise ReplacementOrderError(
                f"The replacement reads at `{source}`, which this forward pass must reach before `{target}`."
                + (f" {reason}" if len(part.reads) > 1 else "")
            )
        self._check_gradients(held, source, target)
        assert held is not None
        assert isinstance(held.value, Tensor)
        return held.value

    def _check_gradients(self, held: _Stored | None, source: Point, target: Point) -> None:
        """Raises an error if a value is missing in a recomputation, or was computed without gradients."""
        if held is None or (torch.is_grad_enabled() and not held.with_gradients):
            raise RuntimeError(
                f"Gradient checkpointing must recompute `{source}` together with `{target}`, or gradients between "
                "the two are lost. Disable checkpointing while the site is replaced."
            )

    def check_axes(self) -> None:
        """Checks the order of axes where a batch didn't show it. It runs after the hooks were removed."""
        for point, n in self._square.items():
            check_axes(self._model, [point], n)

    def unused(self) -> Iterator[str]:
        """Yields a message for each point that wasn't replaced."""
        for point in self._targets:
            if self._n_replaced[point]:
                continue
            if self._n_reached[point]:
                why = f"its call {point.call} was never reached (it was called {self._n_reached[point]} times)"
            elif not point.is_in(self._model):
                why = "another module is now at its path"
            else:
                why = (
                    "the module wasn't called. Run the model inside the context, and this model rather than a copy or "
                    "a compiled one"
                )
            yield f"Nothing was replaced at `{point}`, because {why}."
