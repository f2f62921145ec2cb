"""One place in one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from operator import index
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.batches import ROLES, Activations, point_name
from sparsedict.interventions import Intervention
from sparsedict.sites._capture import capture
from sparsedict.sites._constant import Constant
from sparsedict.sites._context import Exclusion
from sparsedict.sites._devices import input_device, module_device
from sparsedict.sites._ends import Ends, KnownCalls
from sparsedict.sites._find import find, holder_paths, probe, reading
from sparsedict.sites._module_cache import ModuleCache
from sparsedict.sites._neuron_errors import no_neurons
from sparsedict.sites._neurons import Neurons
from sparsedict.sites._parts import SitePoint
from sparsedict.sites._points import NoModuleError, Point, find_module, is_hook_point, resolve_ends, resolve_module
from sparsedict.sites._predictions import logits_of
from sparsedict.sites._replace import replaced
from sparsedict.sites._resolve import ReplacementArguments
from sparsedict.sites._suggest import check_module, hints
from sparsedict.sites._tokens import Tokens
from sparsedict.sites.families import Candidate
from sparsedict.types import EncoderDecoder, Role


class Site:
    """One place in one model: where an MLP reads, where it writes, and its own neurons.

    ``Site(model, path)`` is one module. An MLP that is spread over modules has its two ends named: a point is a
    module's path with ``:in`` or ``:out``, or the name of a TransformerLens hook. Both ends may be the same point
    (a residual stream). Paths are followed at every use, so a site finds a module that was exchanged for another one.

    Args:
        model: Any `torch.nn.Module`: of Hugging Face, TransformerLens or one's own. It isn't changed.
        path: Dotted path of the MLP's module, such as ``"transformer.h.1.mlp"`` or ``"blocks.1.mlp"``.
        reads: The point where the MLP takes its input, instead of ``path``.
        writes: The point where its output is.
        neurons: The MLP's units, or a function that makes them of the module at ``path`` (of the innermost module
            that holds both points), for an architecture that isn't known here.
        exclude_tokens: Ids whose positions are left out, such as those of BOS and padding.
        exclude_first: How many positions at the beginning of each sequence are left out. Where there is an
            ``attention_mask``, padding is always left out and isn't counted.
        call: Which call of the modules in a forward pass is meant, counted from 0, where a model calls them several
            times: a layer that several paths share, or that is run in a loop. By default they must be called once.

    Raises:
        ValueError: If a path leads nowhere (the message lists near names) or the two forms are mixed.

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
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.{_wrapped(model)}")
        if neurons is not None and not callable(neurons) and not isinstance(neurons, Neurons):
            raise TypeError(f"`neurons` must be `Neurons` or a function that makes them, got {type(neurons).__name__}.")
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
        self.exclusion = Exclusion(_token_ids(exclude_tokens), checks.at_least("exclude_first", exclude_first, 0))
        self._given = neurons
        self._reading: ModuleCache[int] | None = None
        self._widths: ModuleCache[tuple[int, int]] | None = None

    def __repr__(self) -> str:
        parts = [type(self.model).__name__, repr(self.name)]
        if self.exclusion.tokens:
            parts.append(f"exclude_tokens={self.exclusion.tokens}")
        if self.exclusion.n_first:
            parts.append(f"exclude_first={self.exclusion.n_first}")
        return f"Site({', '.join(parts)})"

    @property
    def ends(self) -> Ends:
        """The points that the site has now, for a module may have been exchanged."""
        reads, writes = (replace(point, call=self.call) for point in resolve_ends(self.model, *self._names))
        return Ends(self.model, reads, writes, self.name, self.exclusion, self._calls)

    @property
    def reads(self) -> Point:
        """The point where the MLP takes its input."""
        return self.ends.reads

    @property
    def writes(self) -> Point:
        """The point where its output is."""
        return self.ends.writes

    @property
    def d_in(self) -> int:
        """Width of what the MLP reads."""
        return self._find_widths()[0]

    @property
    def d_out(self) -> int:
        """Width of what the MLP writes."""
        return self._find_widths()[1]

    @property
    def device(self) -> torch.device | None:
        """Where the site's activations are; None if the modules there have no weights."""
        parts = self.writes.path.split(".")
        paths = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        modules = (find_module(self.model, path) for path in paths)
        found = (None if module is None else module_device(module) for module in modules)
        return next((device for device in found if device is not None), input_device(self.model))

    @property
    def neurons(self) -> Neurons:
        """The MLP's own units.

        What is found in the module is compared with what the module computes before it is given out. Where the site
        reads TransformerLens' ``hook_normalized``, the norm's scale and shift are folded in, with a warning.

        Raises:
            ValueError: If the MLP's matrices can't be found; the message says how to give them by hand.
        """
        if isinstance(self._given, Neurons):
            return self._given
        if self._given is not None:
            found = self._given(self._holder())
            if not isinstance(found, Neurons):
                raise TypeError(f"`neurons` must be a function that returns `Neurons`, got {type(found).__name__}.")
            return found
        return self._found().neurons

    @property
    def hidden(self) -> Point | None:
        """Where the neurons' activations enter the decoder, if the model has such a point."""
        if self._given is not None:
            return None
        point = self._found().hidden
        if point is None:
            return None
        path = next((name for name, module in self.model.named_modules() if module is point.module), point.path)
        return replace(point, path=path, call=self.call)

    def point(self, role: Role) -> Point:
        """Returns where the activations of a role are.

        Raises:
            ValueError: If the model has no point at which its neurons' activations pass.
        """
        return self.resolve(role).point

    def resolve(self, role: str) -> SitePoint:
        """Returns where the activations of a role are, and which of their positions are left out.

        Raises:
            ValueError: As `point`.
        """
        if role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(map(repr, ROLES))}, got {role!r}.")
        point = self.hidden if role == "neurons" else self.reads if role == "inputs" else self.writes
        if point is None:
            raise ValueError(
                f"The neurons of {self!r} pass no known point of the model: replace its inputs or outputs."
            )
        return SitePoint(self.model, point, self.exclusion, lambda: self._width(role))

    def _width(self, role: str) -> int:
        return self.neurons.n if role == "neurons" else self.d_in if role == "inputs" else self.d_out

    def capture(self, tokens: Tokens, *, neurons: bool = False) -> Activations:
        """Returns what the MLP reads and writes for these tokens, without gradients.

        The forward pass stops after the site. The model's mode (training or evaluation) is left as it is.
        Activations have the shape of the tokens; ``.batch()`` returns the kept positions as rows.

        Args:
            tokens: Token ids ``[n_sequences, n_positions]``, a mapping of the model's keyword arguments (padding is
                told by its ``attention_mask``), or, for a module that takes activations, those.
            neurons: Whether to capture the MLP's hidden activations too.

        Raises:
            TypeError: If ``tokens`` are of the wrong type.
        """
        return capture_sites({"": self}, tokens, neurons=neurons)

    def replaced(
        self,
        x: EncoderDecoder | Any,
        *,
        intervention: Intervention | None = None,
        error_term: bool = False,
        reads: Role | None = None,
        writes: Role | None = None,
    ) -> AbstractContextManager[None]:
        r"""Returns a context in which the model runs with ``x`` in the MLP's place.

        .. math::
            y' = R(a(f)), \qquad \text{with the error term: } y' = R(a(f)) + (y - R(f)), \qquad f = \mathrm{encode}(x)

        Positions that the site leaves out pass through unchanged. Gradients flow, except through the error term, which
        is constant. `Sites.replaced` replaces several MLPs at once.

        Args:
            x: A dictionary, `Neurons`, `Constant`, or any object with ``encode`` and ``decode``. A list of these adds
                up their reconstructions.
            intervention: $a$, from dense latents to dense latents: `Ablation`, `Clamp`, `Steer` or a function.
            error_term: Whether to add the part of the original that the reconstruction misses.
            reads: The activations that ``x`` takes, where it doesn't name them itself.
            writes: The activations that it gives; by default the outputs, or the neurons for one that reads these.

        Raises:
            ValueError: If the activations that ``x`` takes aren't known, or the widths don't fit.
        """
        return replaced({"": self.resolve}, ReplacementArguments(x, intervention, error_term, None, reads, writes))

    def ablated(self, mean: Float[Tensor, " d_out"] | None = None) -> AbstractContextManager[None]:
        """Returns a context in which the MLP writes zero, or its ``mean`` ``[d_out]``, wherever positions count."""
        value = (
            torch.zeros(self.d_out, device="cpu", dtype=torch.float32)
            if mean is None
            else checks.latent_vector("mean", mean, self.d_out)
        )
        return self.replaced(Constant(value))

    def logits(self, tokens: Tokens) -> Float[Tensor, "*shape n_vocabulary"]:
        """Returns the model's logits ``[n_sequences, n_positions, n_vocabulary]``, with gradients where these are on.

        Raises:
            TypeError: If the model gives none.
        """
        return logits_of(self.model, tokens)

    def _source_of_neurons(self) -> Point | Neurons:
        """Returns the point where the neurons' activations are, or the neurons that compute them."""
        point = self.hidden
        return self.neurons if point is None else point

    def _record_widths(self, d_in: int, d_out: int) -> None:
        self._widths = ModuleCache((d_in, d_out), self.ends.modules)

    def _holder(self) -> nn.Module:
        path = holder_paths(self.ends)[0]
        return resolve_module(self.model, path) if path else self.model

    def _found(self) -> Candidate:
        # Only which reading is remembered: the weights themselves may be moved or trained in the meantime.
        modules = list(self._holder().modules())
        index = None if self._reading is None else self._reading.value_for(modules)
        if index is None:
            index, n_tried = find(self.ends)
            if index is None:
                raise ValueError(no_neurons(self.ends, n_tried))
            self._reading = ModuleCache(index, modules)
        return reading(self.ends, index)[0]

    def _find_widths(self) -> tuple[int, int]:
        widths = None if self._widths is None else self._widths.value_for(self.ends.modules)
        if widths is None:
            pair = probe(self.ends)
            widths = None if pair is None else (pair[0].shape[-1], pair[1].shape[-1])
        if widths is None:
            try:
                neurons = self.neurons
            except ValueError as error:
                raise ValueError(
                    f"The widths of {self!r} are unknown, for the model can't run on bare tokens. Call `capture` once."
                ) from error
            widths = (neurons.d_in, neurons.d_out)
        self._record_widths(*widths)
        return widths


def capture_sites(sites: Mapping[str, Site], tokens: Tokens, *, neurons: bool | Iterable[str] = False) -> Activations:
    """Returns the activations of several sites, from one forward pass of each model that stops after its last site.

    Args:
        sites: Sites by name, of one model or of several that take the same tokens. An empty name adds nothing to the
            names of the points.
        tokens: Token ids ``[n_sequences, n_positions]``, or a mapping of the model's keyword arguments.
        neurons: Whether to capture the hidden activations too, or the names of the sites where to.

    Returns:
        Activations in the shape of the tokens. Positions that any site leaves out are masked.

    Raises:
        ValueError: If there are no sites, they have different positions, or a model has no weights in memory.
    """
    if not sites:
        raise ValueError("`sites` must name at least one site, got an empty mapping.")
    wanted = sites.keys() if neurons is True else frozenset(neurons or ())
    hidden = {name: site._source_of_neurons() for name, site in sites.items() if name in wanted}
    found = capture({name: site.ends for name, site in sites.items()}, hidden, tokens)
    for name, site in sites.items():
        widths = (found[point_name(name, role)].shape[-1] for role in ("inputs", "outputs"))
        site._record_widths(*widths)
    return found


def _wrapped(model: object) -> str:
    """Where an object of another library keeps the model that it wraps."""
    for name in ("_model", "_module", "model", "module", "hf_model"):
        if isinstance(vars(model).get(name) if hasattr(model, "__dict__") else None, nn.Module):
            held = f" It wraps one: write `Site(wrapper.{name}, ...)` for a {type(model).__name__} `wrapper`."
            lazy = any(p.is_meta for p in vars(model)[name].parameters())
            return held + (" Load its weights first, for they are on the meta device." if lazy else "")
    return ""


def _token_ids(tokens: Sequence[int]) -> tuple[int, ...]:
    try:
        ids = tuple(index(token) for token in tokens)
    except TypeError as error:
        raise TypeError(f"`exclude_tokens` must be a list of token ids such as [0], got {tokens!r}.") from error
    return tuple(checks.at_least("exclude_tokens", token, 0) for token in ids)
