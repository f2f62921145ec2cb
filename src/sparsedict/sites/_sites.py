"""Several sites at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparsedict import checks
from sparsedict.batches import Activations, Points
from sparsedict.sites._constant import Constant
from sparsedict.sites._replace import replaced
from sparsedict.sites._resolve import ReplacementArguments, ResolvedDictionary, resolve
from sparsedict.sites._site import Site, capture_sites
from sparsedict.sites._tokens import Tokens


class Sites(Mapping[str, Site]):
    """Several sites by name, of one model or of several models that take the same tokens.

    Activations of all sites are captured in one forward pass per model. Their points carry the site's name, such as
    ``"0.inputs"``.

    Args:
        model: The model that all sites belong to, or a mapping of names to sites.
        paths: Dotted paths of the MLPs by the name of the site, such as ``{"0": "transformer.h.0.mlp"}``.
        exclude_tokens: See `Site`; for sites that are made of ``paths``.
        exclude_first: See `Site`; for sites that are made of ``paths``.

    Raises:
        TypeError: If something isn't a site.
        ValueError: If there is no site, a name is empty, or a path leads to no module.

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
                raise TypeError("`paths` and exclusions belong to sites of one model; these are sites already.")
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
                raise ValueError(f"Names of sites must be texts that aren't empty, got {name!r}.")
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
        """The models that the sites belong to."""
        return tuple({id(site.model): site.model for site in self.values()}.values())

    def capture(self, tokens: Tokens, *, neurons: bool | Sequence[str] = False) -> Activations:
        """Returns what the MLPs read and write for these tokens, without gradients.

        Args:
            tokens: As for `Site.capture`; every model is run on them.
            neurons: Whether to capture the MLPs' hidden activations too, or the names of the sites where to.
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

        $R_{kj}$ are the columns that dictionary $k$ writes at point $j$. They are as wide as the activations there, in
        the order of ``writes``. Contributions of several dictionaries to a point add up. All dictionaries that read a
        point see the activations that the model computes there, with earlier points replaced. Positions that a site
        leaves out pass through unchanged, and gradients flow, except through the error term.

        A dictionary runs when the first point that it writes is reached, so the forward pass must reach all points that
        it reads before. A cross-layer dictionary, whose early outputs depend on early inputs alone, runs layer by layer
        if it has a method ``split_sources()``. That returns dictionaries, each of which reads some of its points,
        whose latents side by side are its latents and whose contributions add up to its reconstruction. An
        intervention on it sees the latents of one of these at a time, while all others are zero.

        Args:
            x: A mapping from a site's name to a dictionary, or to a list of dictionaries; a list of dictionaries that
                name their points, such as ``"0.inputs"``; or one of these. In a mapping, a name without a site, such as
                ``"inputs"``, is a point of the key's site; a key that is a tuple of names joins several sites. Another
                key is a label, for a dictionary that names its points.
            intervention: A change of the latents of each dictionary, `Ablation`, `Clamp`, `Steer` or a function: one
                function, or for a mapping or a list of dictionaries a mapping or a list like it.
            error_term: Whether to add the part of the originals that the reconstructions miss, or names of the sites
                where to.
            only: Names of the sites that are replaced; by default all that ``x`` writes. Contributions to others are
                dropped.
            reads: The points that another library's object reads.
            writes: The points that it writes; by default the outputs of the MLPs that it reads.

        Raises:
            TypeError: If an object can't encode and decode, or interventions don't match the dictionaries.
            ValueError: If a dictionary needs a point that isn't there, or points of several models.

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

    def resolve(self, x: Any, *, reads: Points | None = None, writes: Points | None = None) -> list[ResolvedDictionary]:
        """Returns the dictionaries that `replaced` would run, with the full names of their points.

        Args:
            x: As for `replaced`. A dictionary with ``split_sources()`` gives several, all with its key.
            reads: The points that another library's object reads.
            writes: The points that it writes.

        Raises:
            TypeError: If an object can't encode and decode.
            ValueError: If the points of a dictionary aren't known, or aren't there.
        """
        return resolve(tuple(self), ReplacementArguments(x, reads=reads, writes=writes))

    def ablated(self, means: Mapping[str, Float[Tensor, " d_out"]] | None = None) -> AbstractContextManager[None]:
        """Returns a context in which every MLP writes zero, or its mean output, at the positions that count.

        Args:
            means: The mean output ``[d_out]`` of each site.

        Raises:
            ValueError: If the mean of a site is missing or has another width.
        """
        if means is not None and set(means) != set(self):
            raise ValueError(f"`means` must hold the mean of each of the sites {list(self)}, got {list(means)}.")
        values = {
            name: torch.zeros(site.d_out, device="cpu", dtype=torch.float32)
            if means is None
            else checks.latent_vector(f"means[{name!r}]", means[name], site.d_out)
            for name, site in self.items()
        }
        return self.replaced({name: Constant(value) for name, value in values.items()})
