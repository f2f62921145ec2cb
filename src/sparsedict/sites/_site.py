"""`Site`: a single MLP in a model, its points, its neurons and its replacement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.batches import ROLES, Activations, point_name
from sparsedict.interventions import Intervention
from sparsedict.sites._capture import capture
from sparsedict.sites._constant import Constant
from sparsedict.sites._context import Exclusion, exclusion
from sparsedict.sites._devices import nearest_device
from sparsedict.sites._discovery import Discovery, holder
from sparsedict.sites._ends import Ends, KnownCalls
from sparsedict.sites._neurons import Neurons
from sparsedict.sites._parts import SitePoint
from sparsedict.sites._points import NoModuleError, Point, is_hook_point, resolve_ends
from sparsedict.sites._predictions import logits_of
from sparsedict.sites._replace import replaced
from sparsedict.sites._resolve import ReplacementArguments
from sparsedict.sites._suggest import check_module, hints, wrapper_hint
from sparsedict.sites._tokens import Tokens
from sparsedict.types import EncoderDecoder, Role


class Site:
    """One MLP in one model: where it reads, where it writes, and its neurons.

    ``Site(model, path)`` is the MLP in one module. For an MLP that is spread over several modules, name its two points
    with ``reads`` and ``writes``. A point is the path of a module with ``:in`` or ``:out``, or the name of a
    TransformerLens hook. Both may be the same point, such as one in the residual stream. Paths are resolved at every
    use, so a site follows a module that is replaced by another one.

    Args:
        model: Any `torch.nn.Module`, such as a Hugging Face or TransformerLens model. It isn't modified.
        path: Dotted path of the MLP's module, such as ``"transformer.h.1.mlp"`` or ``"blocks.1.mlp"``.
        reads: The point of the MLP's input, instead of ``path``.
        writes: The point of the MLP's output, instead of ``path``.
        neurons: The MLP's neurons, or a function that computes them from the module at ``path`` (from the innermost
            module with both points), for architectures that aren't supported.
        exclude_tokens: Token ids whose positions are excluded, such as those of BOS and padding.
        exclude_first: Number of positions to exclude at the beginning of each sequence. With an ``attention_mask``,
            padding is always excluded and not counted.
        call: Index of the call in a forward pass, from 0, for modules that the model calls several times: a layer that
            several paths share, or that runs in a loop. By default, the modules must be called once.

    Raises:
        ValueError: If there is no module at a path (the message lists similar names), or the two forms are mixed.

    Example:
        >>> import torch
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), mlp, torch.nn.Linear(4, 10))
        >>> site = Site(model, "1")
        >>> site.neurons
        Neurons(n=16, d_in=4, d_out=4, activation=GELU)
        >>> site.capture(torch.tensor([[1, 2, 3]])).outputs.shape
        torch.Size([1, 3, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | None = None,
        *,
        reads: str | None = None,
        writes: str | None = None,
        neurons: Neurons | Callable[[nn.Module], Neurons] | None = None,
        exclude_tokens: Sequence[int] = (),
        exclude_first: int = 0,
        call: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.{wrapper_hint(model)}")
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError(
                "`model` must be a model that runs in Python, got a TorchScript module, which ignores hooks. Pass the "
                "model from which it was made."
            )
        if neurons is not None and not callable(neurons) and not isinstance(neurons, Neurons):
            raise TypeError(
                f"`neurons` must be `Neurons` or a function that returns them, got {type(neurons).__name__}."
            )
        self.model = model
        self.call: int | None = None if call is None else checks.at_least("call", call, 0)
        self._names = (path, reads, writes)
        try:
            self._calls = KnownCalls()
            self.exclusion: Exclusion = Exclusion()
            self.name: str = ""
            source, target = self.ends.points
        except NoModuleError as error:
            raise ValueError(f"{error} {hints(model, error)}") from None
        if path is not None and not is_hook_point(source.module):
            check_module(model, path)
        name = path or (str(source) if source == target else f"{source} -> {target}")
        self.name = name if self.call is None else f"{name} (call {self.call})"
        self.exclusion = exclusion(exclude_tokens, exclude_first)
        self._neurons_argument = neurons
        self._discovery = Discovery()

    def __repr__(self) -> str:
        parts = [type(self.model).__name__, repr(self.name)]
        if self.exclusion.tokens:
            parts.append(f"exclude_tokens={self.exclusion.tokens}")
        if self.exclusion.n_first:
            parts.append(f"exclude_first={self.exclusion.n_first}")
        return f"Site({', '.join(parts)})"

    @property
    def ends(self) -> Ends:
        """The current points of the site. A module may have been replaced since the last use."""
        reads, writes = (replace(point, call=self.call) for point in resolve_ends(self.model, *self._names))
        return Ends(self.model, reads, writes, self.name, self.exclusion, self._calls)

    @property
    def reads(self) -> Point:
        """The point of the MLP's input."""
        return self.ends.reads

    @property
    def writes(self) -> Point:
        """The point of the MLP's output."""
        return self.ends.writes

    @property
    def d_in(self) -> int:
        """Width of the MLP's input."""
        return self._widths()[0]

    @property
    def d_out(self) -> int:
        """Width of the MLP's output."""
        return self._widths()[1]

    @property
    def device(self) -> torch.device | None:
        """Device of the site's activations; None if its modules have no weights."""
        return nearest_device(self.model, self.writes.path)

    @property
    def neurons(self) -> Neurons:
        """The MLP's neurons.

        The weights that are found are verified against the output of the module. If the site reads TransformerLens'
        ``hook_normalized``, the norm's scale and shift are folded into the weights, with a warning.

        Raises:
            ValueError: If the MLP's weights can't be found. The message explains how to pass them.
        """
        if isinstance(self._neurons_argument, Neurons):
            return self._neurons_argument
        if self._neurons_argument is not None:
            found = self._neurons_argument(holder(self.ends))
            if not isinstance(found, Neurons):
                raise TypeError(f"`neurons` must be a function that returns `Neurons`, got {type(found).__name__}.")
            return found
        return self._discovery.mlp(self.ends).neurons

    @property
    def hidden(self) -> Point | None:
        """The point of the neurons' activations, which is the decoder's input; None if the model has no such point."""
        return None if self._neurons_argument is not None else self._discovery.hidden(self.ends)

    def point(self, role: Role) -> Point:
        """Returns the point of a role.

        Raises:
            ValueError: If the role is ``"neurons"`` and the model has no point with the neurons' activations.
        """
        return self.resolve(role).point

    def resolve(self, role: str) -> SitePoint:
        """Returns the point of a role with its model, exclusion and width.

        Raises:
            ValueError: See `point`.
        """
        if role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(map(repr, ROLES))}, got {role!r}.")
        point = self.hidden if role == "neurons" else self.reads if role == "inputs" else self.writes
        if point is None:
            raise ValueError(
                f"The model has no known point with the activations of the neurons of {self!r}. Replace its inputs or "
                "outputs."
            )
        return SitePoint(self.model, point, self.exclusion, lambda: self._width(role))

    def _width(self, role: str) -> int:
        return self.neurons.n if role == "neurons" else self.d_in if role == "inputs" else self.d_out

    def capture(self, tokens: Tokens, *, neurons: bool = False) -> Activations:
        """Returns the MLP's input and output for some tokens, without gradients.

        The forward pass stops after the site. The model stays in its mode (training or evaluation). Activations have
        the shape of the tokens; ``.batch()`` returns the kept positions as rows.

        Args:
            tokens: Token ids ``[n_sequences, n_positions]``; or a mapping of the model's keyword arguments, with an
                ``attention_mask`` if there is padding; or activations, if the model takes these.
            neurons: Whether to also capture the MLP's hidden activations.

        Raises:
            TypeError: If ``tokens`` has the wrong type.
        """
        hidden = {"": self._source_of_neurons()} if neurons else {}
        return self._with_widths(capture({"": self.ends}, hidden, tokens))

    def replaced(
        self,
        x: EncoderDecoder | Any,
        *,
        intervention: Intervention | None = None,
        error_term: bool = False,
        reads: Role | None = None,
        writes: Role | None = None,
    ) -> AbstractContextManager[None]:
        r"""Returns a context in which the model runs with ``x`` in place of the MLP.

        .. math::
            y' = R(a(f)), \qquad \text{with the error term: } y' = R(a(f)) + (y - R(f)), \qquad f = \mathrm{encode}(x)

        Excluded positions pass through unchanged. Gradients flow, except through the error term, which is constant.
        `Sites.replaced` replaces several MLPs at once.

        Args:
            x: A dictionary, `Neurons`, `Constant`, or any object with ``encode`` and ``decode``; or a list of them,
                whose reconstructions add up.
            intervention: $a$, from dense latents to dense latents: `Ablation`, `Clamp`, `Steer` or a function.
            error_term: Whether to add the reconstruction error, the original minus the reconstruction.
            reads: Role that ``x`` reads, if it has no attribute ``reads``.
            writes: Role that ``x`` writes; by default the outputs, or the neurons if ``x`` reads the neurons.

        Raises:
            ValueError: If the role that ``x`` reads is unknown, or widths differ.
        """
        return replaced({"": self.resolve}, ReplacementArguments(x, intervention, error_term, None, reads, writes))

    def ablated(self, mean: Float[Tensor, " d_out"] | None = None) -> AbstractContextManager[None]:
        """Returns a context in which the MLP's output is zero or ``mean`` ``[d_out]``, except at excluded positions."""
        zeros = torch.zeros(self.d_out, device="cpu", dtype=torch.float32)
        return self.replaced(Constant(zeros if mean is None else checks.latent_vector("mean", mean, self.d_out)))

    def logits(self, tokens: Tokens) -> Float[Tensor, "*shape n_vocabulary"]:
        """Returns the model's logits ``[n_sequences, n_positions, n_vocabulary]``, with gradients if they are enabled.

        Raises:
            NoLogitsError: If the model doesn't return logits. It is a ``TypeError``.
        """
        return logits_of(self.model, tokens)

    def _source_of_neurons(self) -> Point | Neurons:
        """Returns the point of the neurons' activations, or the neurons to compute them."""
        point = self.hidden
        return self.neurons if point is None else point

    def _with_widths(self, found: Activations, name: str = "") -> Activations:
        """Records the widths of the site's points in some activations, and returns the activations.

        Args:
            found: Activations with the points of this site.
            name: Name of the site in the points.
        """
        widths = (found[point_name(name, role)].shape[-1] for role in ("inputs", "outputs"))
        self._discovery.record_widths(self.ends, *widths)
        return found

    def _widths(self) -> tuple[int, int]:
        ends = self.ends
        widths = self._discovery.widths(ends)
        if widths is None:
            try:
                neurons = self.neurons
            except ValueError as error:
                raise ValueError(
                    f"The widths of {self!r} are unknown, since the model needs more than token ids. Call `capture` "
                    "once."
                ) from error
            widths = neurons.d_in, neurons.d_out
            self._discovery.record_widths(ends, *widths)
        return widths
