"""`Sites`, several sites that are captured and replaced together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.batches import Activations, Points
from sparsedict.sites._capture import capture
from sparsedict.sites._constant import Constant
from sparsedict.sites._replace import replaced
from sparsedict.sites._resolve import ReplacementArguments, ResolvedDictionary, resolve
from sparsedict.sites._site import Site
from sparsedict.sites._tokens import Tokens


class Sites(Mapping[str, Site]):
    """Several sites by name, of one or several models that take the same tokens.

    The activations of all sites are captured in one forward pass per model. Names of points start with the name of the
    site, such as ``"0.inputs"``.

    Args:
        model: The model of all sites, or a mapping of names to sites.
        paths: Dotted paths of the MLPs by name of the site, such as ``{"0": "transformer.h.0.mlp"}``.
        exclude_tokens: See `Site`. Only together with ``paths``.
        exclude_first: See `Site`. Only together with ``paths``.

    Raises:
        TypeError: If a value of the mapping isn't a site.
        ValueError: If there is no site, a name is empty, or there is no module at a path.

    Example:
        >>> import torch
        >>> mlps = [torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)) for _ in "ab"]
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), *mlps)
        >>> sites = Sites(model, {"0": "1", "1": "2"})
        >>> captured = sites.capture(torch.tensor([[1, 2, 3]]))
        >>> list(captured), captured["1.outputs"].shape
        (['0.inputs', '0.outputs', '1.inputs', '1.outputs'], torch.Size([1, 3, 4]))
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, Site],
        paths: Mapping[str, str] | None = None,
        *,
        exclude_tokens: Sequence[int] = (),
        exclude_first: int = 0,
    ) -> None:
        if isinstance(model, Mapping):
            if paths is not None or exclude_tokens or exclude_first:
                raise TypeError(
                    "`paths`, `exclude_tokens` and `exclude_first` must be omitted if `model` is a mapping of sites."
                )
            self._sites: dict[str, Site] = dict(model)
        else:
            if not isinstance(paths, Mapping):
                raise TypeError(f"`paths` must map names to paths, such as {{'0': 'h.0.mlp'}}, got {paths!r}.")
            options = {"exclude_tokens": exclude_tokens, "exclude_first": exclude_first}
            self._sites = {name: Site(model, path, **options) for name, path in paths.items()}
        if not self._sites:
            raise ValueError("`sites` must name at least one site, got an empty mapping.")
        for name, site in self._sites.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"Names of sites must be non-empty strings, got {name!r}.")
            if not isinstance(site, Site):
                raise TypeError(f"`sites` must map names to Sites, got {type(site).__name__} for {name!r}.")

    def __getitem__(self, name: str) -> Site:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"Sites({self._sites!r})"

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """The distinct models of the sites."""
        return tuple({id(site.model): site.model for site in self.values()}.values())

    def capture(self, tokens: Tokens, *, neurons: bool | Sequence[str] = False) -> Activations:
        """Returns the inputs and outputs of the MLPs for some tokens, without gradients.

        Args:
            tokens: See `Site.capture`. Every model runs on them.
            neurons: Whether to also capture hidden activations, or names of the sites for which to capture them.
        """
        return capture_sites(self, tokens, neurons=neurons)

    def replaced(
        self,
        x: Any,
        *,
        intervention: Any = None,
        error_term: bool | Collection[str] = False,
        only: Collection[str] | None = None,
        reads: Points | None = None,
        writes: Points | None = None,
    ) -> AbstractContextManager[None]:
        r"""Returns a context in which the models run with dictionaries in place of their MLPs.

        .. math::
            y'_j = \sum_k R_{kj}(a_k(f_k)), \qquad
            \text{with the error term: } y'_j = y_j + \sum_k \left(R_{kj}(a_k(f_k)) - R_{kj}(f_k)\right)

        $R_{kj}$ are the columns of dictionary $k$'s reconstruction for point $j$. Columns are ordered as in ``writes``.
        The contributions of several dictionaries to a point add up. All dictionaries that read a point see the
        activations that the model computes there, with earlier points replaced. Excluded positions pass through
        unchanged. Gradients flow, except through the error term.

        A dictionary runs when the forward pass reaches the first point that it writes. All points that it reads must
        come before. A cross-layer dictionary whose early outputs depend only on early inputs can run layer by layer, if
        it has a method ``split_sources()``. This method returns dictionaries that each read some of its points. Their
        concatenated latents are its latents, and their contributions add up to its reconstruction. An intervention on
        the dictionary is applied to the latents of one source at a time, while all other latents are zero.

        Args:
            x: One of three forms. A mapping from a site's name to a dictionary or a list of dictionaries; a list of
                dictionaries that name their points in full, such as ``"0.inputs"``; or a single dictionary. In a
                mapping, the point ``"inputs"`` is that of the key's site. A key that is a tuple of names joins several
                sites. Any other key is a label for a dictionary that names its points in full.
            intervention: A change of the latents of each dictionary, `Ablation`, `Clamp`, `Steer` or a function. It has
                the form of ``x``: one function, a mapping or a list.
            error_term: Whether to add the reconstruction error, or names of the sites for which to add it.
            only: Names of the sites to replace; by default all sites that ``x`` writes. Contributions to other sites
                are dropped.
            reads: Points that another library's object reads.
            writes: Points that it writes; by default the outputs of the MLPs that it reads.

        Raises:
            TypeError: If an object can't encode and decode, or interventions don't match the dictionaries.
            ValueError: If a dictionary needs a missing point, or points of several models.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> mlps = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in "ab"]
            >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), *mlps)
            >>> sites = Sites(model, {"0": "1", "1": "2"})
            >>> tokens = torch.tensor([[1, 2, 3]])
            >>> with torch.no_grad(), sites.replaced({name: site.neurons for name, site in sites.items()}):
            ...     torch.allclose(model(tokens), sites.capture(tokens)["1.outputs"], atol=1e-5)
            True
        """
        arguments = ReplacementArguments(x, intervention, error_term, only, reads, writes)
        return replaced({name: site.resolve for name, site in self.items()}, arguments)

    def resolve(
        self, x: Any, *, reads: Points | None = None, writes: Points | None = None, argument: str = "x"
    ) -> list[ResolvedDictionary]:
        """Returns the dictionaries that `replaced` runs, with the full names of their points.

        Args:
            x: See `replaced`. A dictionary with ``split_sources()`` becomes several dictionaries with its key.
            reads: Points that another library's object reads.
            writes: Points that it writes.
            argument: Name of the argument ``x`` in error messages.

        Raises:
            TypeError: If an object can't encode and decode.
            ValueError: If the points of a dictionary are unknown or missing.
        """
        return resolve(tuple(self), ReplacementArguments(x, reads=reads, writes=writes), argument)

    def ablated(self, means: Mapping[str, Float[Tensor, " d_out"]] | None = None) -> AbstractContextManager[None]:
        """Returns a context in which the output of every MLP is zero, or its mean, except at excluded positions.

        Args:
            means: The mean output ``[d_out]`` of each site.

        Raises:
            ValueError: If the mean of a site is missing or has another width.
        """
        if means is not None and set(means) != set(self):
            raise ValueError(f"`means` must have a mean for each of the sites {list(self)}, got {list(means)}.")
        values = {
            name: torch.zeros(site.d_out, device="cpu", dtype=torch.float32)
            if means is None
            else checks.latent_vector(f"means[{name!r}]", means[name], site.d_out)
            for name, site in self.items()
        }
        return self.replaced({name: Constant(value) for name, value in values.items()})


def capture_sites(sites: Mapping[str, Site], tokens: Tokens, *, neurons: bool | Iterable[str] = False) -> Activations:
    """Returns the activations of several sites, from one forward pass of each model that stops after its last site.

    Args:
        sites: Sites by name, of one or several models that take the same tokens. Points of a site with an empty name
            have no prefix.
        tokens: Token ids ``[n_sequences, n_positions]``, or a mapping of the model's keyword arguments.
        neurons: Whether to also capture hidden activations, or names of the sites for which to capture them.

    Returns:
        Activations in the shape of the tokens. Positions that any site excludes are masked.

    Raises:
        ValueError: If there are no sites, they have different positions, or a model has no weights in memory.
    """
    if not sites:
        raise ValueError("`sites` must name at least one site, got an empty mapping.")
    wanted = sites.keys() if neurons is True else frozenset(neurons or ())
    hidden = {name: site._source_of_neurons() for name, site in sites.items() if name in wanted}
    found = capture({name: site.ends for name, site in sites.items()}, hidden, tokens)
    for name, site in sites.items():
        site._with_widths(found, name)
    return found
